-- How a task's last run ended: the newest of its entries among the finished tasks.
--
-- ARGV[1]  task id as JSON
-- returns  the entry, or ""

local PAGE = 500
local wanted, from = '"id": ' .. ARGV[1], 0
while true do
  local page = redis.call('LRANGE', 'gpumesh:finished', from, from + PAGE - 1)
  for i = 1, #page do
    if string.find(page[i], wanted, 1, true) then return page[i] end
  end
  if #page < PAGE then return '' end
  from = from + PAGE
end

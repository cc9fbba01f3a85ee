-- The head of a task's newest dead letter: its envelope may be megabytes.
--
-- ARGV[1]  task id as JSON        ARGV[2]  task id
-- returns  the head, or ""

local PAGE = 20
local from = 0
while true do
  local page = redis.call('LRANGE', 'gpumesh:dead', from, from + PAGE - 1)
  for i = 1, #page do
    local head = string.match(page[i], '^[^\n]*')
    if string.find(head, ARGV[2], 1, true) or string.find(head, ARGV[1], 1, true) then
      local ok, told = pcall(cjson.decode, head)
      if ok and type(told) == 'table' and told.id == ARGV[2] then return head end
    end
  end
  if #page < PAGE then return '' end
  from = from + PAGE
end

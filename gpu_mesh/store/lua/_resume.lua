-- The end of a realtime job's hold on ai-batch, see _holds.lua: included where a claim ends, in a block where `call`, `P`,
-- `HELD`, `worker`, `tag` and `siblings` are set. No function, and in the order of what is likely: each realtime job
-- pays for this.

local held, scope = P .. 'realtime:', string.match(worker, '@(.*)$') or ''
-- In whichever scope it is: the worker's setting may be another one by now.
if call('ZREM', held .. scope, worker .. '\t' .. tag) == 0 then
  scope = call('ZREM', held .. '*', worker .. '\t' .. tag) == 1 and '*' or worker
  if scope == worker then call('ZREM', held .. worker, worker .. '\t' .. tag) end
end
local others = ''
if scope == worker and siblings then
  others = siblings
  for sibling in string.gmatch(siblings, '[^,]+') do call('ZREM', held .. sibling, worker .. '\t' .. tag) end
end
-- Where it was the last, those that are idle for want of ai-batch look again, as many as there is work.
while scope do
  local idle, left = P .. 'idle:' .. HELD .. '@' .. scope, 0
  if call('EXISTS', idle) == 1 and call('EXISTS', held .. scope) == 0 then
--@include _idle
    for _, step in ipairs({'', ':3', ':6', ':9'}) do
      left = left + (tonumber(redis.pcall('LLEN', HELD .. step)) or 0)
    end
    for _, other in ipairs(left > 0 and call('ZRANGE', idle, 0, left - 1) or {}) do wake(other) end
  end
  scope, others = string.match(others, '^,?([^,]+)(.*)$')
end

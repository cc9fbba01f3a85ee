-- The end of a realtime job's hold on ai-batch: included by _let_go.lua, after _idle. See _holds.lua.

-- Drop the hold wherever it is: the worker's setting may be another one by now. Where it was the last, those that are
-- idle there for want of ai-batch look again, as many as there is work.
local function resume(worker, tag, siblings)
  local scopes = {'*', string.match(worker, '@(.*)$') or '', worker}
  for sibling in string.gmatch(siblings, '[^,]+') do scopes[#scopes + 1] = sibling end
  for _, scope in ipairs(scopes) do
    local held = P .. 'realtime:' .. scope
    if call('ZREM', held, worker .. '\t' .. tag) == 1 and call('EXISTS', held) == 0 then
      local idle, left = P .. 'idle:' .. HELD .. '@' .. scope, 0
      if call('EXISTS', idle) == 1 then
        for _, step in ipairs({'', ':3', ':6', ':9'}) do
          left = left + (tonumber(redis.pcall('LLEN', HELD .. step)) or 0)
        end
        for _, other in ipairs(left > 0 and call('ZRANGE', idle, 0, left - 1) or {}) do wake(other) end
      end
    end
  end
end

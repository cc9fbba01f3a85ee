-- Publish or delay a message that has a reservation, unless that was done, or the reservation was given up.
--
-- ARGV[1] to ARGV[7]  as publish.lua      ARGV[8]  reservation, see reserve.lua
-- ARGV[9]  task id, as reserved           ARGV[10]  when it is due, s since the epoch; "": at once
-- returns  as publish.lua
--
-- Refused as a whole by a Redis that is full: the first write needs memory.

-- Whether it is to be sent now; it then counts as sent.
local function is_to_be_sent(reservation, task)
  local got = redis.call('HMGET', reservation, 'ids', 'done')
  return got[1] and not got[2] and string.find(got[1], '"' .. task .. '"', 1, true)
    and redis.call('HSETNX', reservation, '=' .. task, 1) == 1
end

if not is_to_be_sent(ARGV[8], ARGV[9]) then return '' end
if ARGV[10] ~= '' then
  local t = redis.call('TIME')
  if tonumber(ARGV[10]) > tonumber(t[1]) + tonumber(t[2]) / 1e6 then
    -- As delay.lua.
    redis.call('HSET', 'gpumesh:later', ARGV[5], ARGV[1] .. '\n' .. ARGV[2])
    redis.call('ZADD', 'gpumesh:delayed', ARGV[10], ARGV[5])
    return ''
  end
end
--@include publish

-- What became of a reservation (reserve.lua).
--
-- ARGV[1]  reservation        ARGV[2]  "done": all are sent; "give up": forget it, unless something was sent
-- returns  1; 0 where it is gone, or cannot be given up
local call, fields = redis.call, redis.call('HKEYS', ARGV[1])
if #fields == 0 then return 0 end
if ARGV[2] == 'give up' then
  for i = 1, #fields do
    if fields[i] == 'done' or string.sub(fields[i], 1, 1) == '=' then return 0 end
  end
  return call('DEL', ARGV[1])
end
call('HSET', ARGV[1], 'done', 1)
for i = 1, #fields do
  if string.sub(fields[i], 1, 1) == '=' then call('HDEL', ARGV[1], fields[i]) end
end
return 1

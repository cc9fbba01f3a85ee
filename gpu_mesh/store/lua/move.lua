-- Move a waiting message to another list, its age and deliveries kept. To the index of that one it comes from a stranger.
--
-- ARGV[1]  list it is in         ARGV[2]  envelope as it is
-- ARGV[3]  list it goes to       ARGV[4]  envelope as it is to be
-- ARGV[5]  delivery tag          ARGV[6]  when it was sent, s by its sender's clock; "" when it does not say
-- returns  1, or 0 when it was not there any more
--
-- gpumesh:again, gpumesh:gated  see _index.lua        gpumesh:state  see claim.lua
--@include _index
--@include _describe
--@include _mend
--@include _remove

local kind = call('TYPE', ARGV[3]).ok
if kind ~= 'list' and kind ~= 'none' then return 0 end
-- First what is known of it: removing forgets it.
local again = call('HGET', AGAIN, ARGV[5])
if remove(ARGV[1], ARGV[2]) == 0 then return 0 end
call('LPUSH', ARGV[3], ARGV[4])

local now = clock()
local from, to = gated_until(queue_of(ARGV[1]), now), gated_until(queue_of(ARGV[3]), now)
local at, gated, deliveries = math.min(now, (tonumber(ARGV[6]) or now) * 1e6), from, '0'
if again then
  local known = split(again)
  at, gated, deliveries = tonumber(known[1]), tonumber(known[2]), known[3]
end
-- As long behind the gates of the one queue as it was behind those of the other.
call('HSET', AGAIN, ARGV[5], text(at) .. '\t' .. text(to - (from - gated)) .. '\t' .. deliveries)
call('HDEL', P .. 'state', '=looked')
return 1

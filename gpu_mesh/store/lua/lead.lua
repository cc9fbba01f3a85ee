-- Lead the beats of the mesh, or go on leading, or see who does.
--
-- ARGV[1]  beat        ARGV[2]  how long it leads without asking again, ms
-- returns  Redis's time: s, µs; who leads; 1 when it does so from now on
--
-- gpumesh:beat  string  the beat that leads; expires

local t, holder = redis.call('TIME'), redis.call('GET', 'gpumesh:beat')
if holder == ARGV[1] then
  redis.call('PEXPIRE', 'gpumesh:beat', ARGV[2])
elseif not holder then
  redis.call('SET', 'gpumesh:beat', ARGV[1], 'PX', ARGV[2])
  return {t[1], t[2], ARGV[1], 1}
end
return {t[1], t[2], holder, 0}

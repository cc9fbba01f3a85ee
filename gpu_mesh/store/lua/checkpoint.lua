-- Keep a task's checkpoint, if the run that saves it still holds its claim: one that was replaced must not overwrite
-- what its successor saved.
--
-- KEYS[1]  the checkpoint (`gpumesh:checkpoint:<task id>`)
-- ARGV[1]  worker        ARGV[2]  delivery tag        ARGV[3]  the state, JSON        ARGV[4]  how long it is kept, ms
-- returns  1, or 0 when the claim was not this worker's any more

if redis.call('HEXISTS', 'gpumesh:claims:' .. ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1

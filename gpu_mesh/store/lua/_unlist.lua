-- The end of a job that might have been preempted, see _victim.lua: included where a claim ends, in a block where `call`,
-- `P`, `queue`, `worker` and `tag` are set.

local job = worker .. '\t' .. tag
if call('ZREM', P .. 'running:' .. queue, job) == 1 then call('HDEL', P .. 'asked', job) end

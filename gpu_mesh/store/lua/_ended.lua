-- Telling the statistics of a run that is over: included where a claim ends, in a block where `call`, `P`, `worker`,
-- `record`, `siblings` (or nil), `outcome`, `model` and `ran` are set. No function: each task pays for this.
--
--   gpumesh:ended        list    a line a run, oldest first: now (s), outcome, worker, µs it ran ("": since it was
--                                claimed), model, siblings, claim as in _let_go.lua; tab-separated. See store/counters.py
--   gpumesh:ended:first  string  number of its first line, counted since the mesh began

-- Lines kept at most where nobody counts them, and dropped at once then.
local KEPT, DROPPED = 100000, 10000
local line = table.concat({call('TIME')[1], outcome, worker, ran, model, siblings or '', record}, '\t')
-- A stranger's key of that name keeps no claim from ending.
local length = redis.pcall('RPUSH', P .. 'ended', line)
if type(length) == 'number' and length > KEPT then
  call('LTRIM', P .. 'ended', DROPPED, -1)
  call('INCRBY', P .. 'ended:first', DROPPED)
end

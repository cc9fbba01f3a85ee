-- Count a run of the mesh's own periodic work.
--
-- ARGV[1]  its name        ARGV[2]  how long it took, µs        ARGV[3]  1: it failed
-- ARGV[4]  when it was due, s since the epoch; "" where that is not known
-- returns  nothing
--
-- gpumesh:ticks  hash  <name>|runs, |failed, |us → since the mesh began
--                      <name>|last_us, |late_us, |at → of the last run: how long it took, how late it began, when it
--                      ended (s)

local call, ticks, name, took = redis.call, 'gpumesh:ticks', ARGV[1], tonumber(ARGV[2])
local t = call('TIME')
local now = t[1] * 1e6 + t[2]
local function text(number) return string.format('%.0f', number) end
call('HINCRBY', ticks, name .. '|runs', 1)
call('HINCRBY', ticks, name .. '|failed', ARGV[3])
call('HINCRBY', ticks, name .. '|us', ARGV[2])
call('HSET', ticks, name .. '|last_us', ARGV[2], name .. '|at', string.format('%.6f', now / 1e6))
if ARGV[4] ~= '' then call('HSET', ticks, name .. '|late_us', text(math.max(0, now - took - ARGV[4] * 1e6))) end

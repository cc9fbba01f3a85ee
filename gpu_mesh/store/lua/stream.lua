-- Add a piece to what a task streams, if the run that adds it is the task's current one: a run that was replaced must
-- not write into its successor's text. The first piece of a run begins the text anew.
--
-- KEYS[1]  the stream (`gpumesh:stream:<task id>`), see store/streams.py
-- ARGV[1]  worker        ARGV[2]  delivery tag; '' where no claim is held
-- ARGV[3]  the run's number, 0 for its first piece        ARGV[4]  bytes of this run before the piece
-- ARGV[5]  text          ARGV[6]  thinking                ARGV[7]  how long the stream is kept, ms
-- ARGV[8]  bytes kept    ARGV[9]  entries kept
-- returns  the run's number, or 0 when it is not the current one

if ARGV[2] ~= '' and redis.call('HEXISTS', 'gpumesh:claims:' .. ARGV[1], ARGV[2]) == 0 then return 0 end

local function fields(entry)
  local found = {}
  for i = 1, #entry[2], 2 do found[entry[2][i]] = entry[2][i + 1] end
  return found
end
local function size(found) return #(found.text or '') + #(found.thinking or '') end

local key, run, at = KEYS[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
last = last and fields(last)
if run == 0 then
  -- The time, so that it rises also when the stream before has expired.
  local now = redis.call('TIME')
  run = math.max(last and tonumber(last.run) + 1 or 1, now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('XTRIM', key, 'MAXLEN', 0)
elseif last then
  if tonumber(last.run) ~= run then return 0 end
  -- Sent again, for the answer was lost.
  if at < tonumber(last.at) + size(last) then return run end
end

local piece = {'run', string.format('%.0f', run), 'at', ARGV[4]}
if ARGV[5] ~= '' then piece[#piece + 1] = 'text'; piece[#piece + 1] = ARGV[5] end
if ARGV[6] ~= '' then piece[#piece + 1] = 'thinking'; piece[#piece + 1] = ARGV[6] end
redis.call('XADD', key, 'MAXLEN', ARGV[9], '*', unpack(piece))
redis.call('PEXPIRE', key, ARGV[7])

local whole = at + #ARGV[5] + #ARGV[6]
local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 2)
while #first == 2 and whole - tonumber(fields(first[1]).at) > tonumber(ARGV[8]) do
  redis.call('XDEL', key, first[1][1])
  first = redis.call('XRANGE', key, '-', '+', 'COUNT', 2)
end
return run

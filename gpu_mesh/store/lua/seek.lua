-- Look whether interactive work waits for which a job should yield, and ask those that should. What publish.lua does at
-- once, for what it cannot see: messages of strangers, given back or due only now, needs that nobody has judged, asks
-- that were lost or not heeded.
--
-- ARGV[1]  worker that looks        ARGV[2]  age from which messages count, µs: a younger one may be on its way
-- ARGV[3]  numbers of the needs its device meets, `,1,7,`        ARGV[4]  and of those it does not
-- ARGV[5]  messages to index at most
-- returns  {"needs", number, text, …}  needs it has not judged yet: judge and look again
--          {"asked", again, tag, queue, …}  its own jobs that are asked to yield, and for which queue; again 1 where
--                                           younger messages wait
--@include _index
--@include _describe
--@include _mend
--@include _adopt
--@realtime
--@preemption

local JUDGED_AT_ONCE, KINDS = 100, 1000
local me, now = ARGV[1], clock()
-- The first write needs no memory: this works on a Redis that is full.
call('DEL', P .. 'nothing')

-- Waiting messages of a queue by needs, and whether there are too young ones.
local function wanted(queue)
  local found, young = {}, 0
  for band in pairs({critical = 1, high = 1, normal = 1, low = 1}) do
    for _, group in ipairs(call('ZRANGE', P .. 'class:' .. queue .. '|' .. band, 0, KINDS)) do
      local needs = match(group, '^%d+')
      if needs ~= '0' then
        local key, upto = P .. 'group:' .. group, text(now - ARGV[2])
        local old = call('ZCOUNT', key, '-inf', upto)
        if old > 0 then found[needs] = (found[needs] or 0) + old end
        if old < call('ZCARD', key) then young = 1 end
      end
    end
  end
  return found, young
end

local function in_order(found)
  local numbers = {}
  for needs in pairs(found) do numbers[#numbers + 1] = needs end
  table.sort(numbers, function(a, b) return tonumber(a) < tonumber(b) end)
  return numbers
end

local function fits_idle(queue, needs)
  for _, name in ipairs(call('ZRANGE', P .. 'idle:' .. queue, 0, -1)) do
    if call('ZSCORE', P .. 'fit:' .. needs .. ':normal', name) then return true end
  end
end

local again, fitting, demands, unknown = 0, 0, {}, {'needs'}
for i = 1, #INTERACTIVE do
  local queue = INTERACTIVE[i]
  for step = 0, 9, 3 do adopt(step == 0 and queue or queue .. ':' .. step, queue, now, tonumber(ARGV[5])) end
  local found, young = wanted(queue)
  again = math.max(again, young)
  for _, needs in ipairs(in_order(found)) do
    local key = ',' .. needs .. ','
    local fits = find(ARGV[3], key, 1, true)
    if fits then
      fitting = fitting + 1
    elseif not find(ARGV[4], key, 1, true) and #unknown < 2 * JUDGED_AT_ONCE then
      unknown[#unknown + 1] = needs
      unknown[#unknown + 1] = call('HGET', NEEDS, needs) or ''
    end
    demands[#demands + 1] = {queue = queue, needs = needs, waiting = found[needs], me = fits and me or ''}
  end
end
if #unknown > 1 then return unknown end

for _, demand in ipairs(demands) do
  local queue, needs, waiting, me, victim = demand.queue, demand.needs, demand.waiting, demand.me, nil
  if not fits_idle(queue, needs) then
    repeat
--@include _victim
    until not victim
  end
end

local own = {'asked', again}
local told = call('HGETALL', P .. 'asked')
for i = 1, #told, 2 do
  local holder, tag = match(told[i], '^(.*)\t(.*)$')
  if holder == me then
    if fitting > 0 or again == 1 then
      own[#own + 1] = tag
      own[#own + 1] = match(told[i + 1], '|(.*)$')
    else
      -- Whoever waited was served by another one.
      call('HDEL', P .. 'asked', told[i])
    end
  end
end
return own

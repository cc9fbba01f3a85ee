-- Put a message into its list, index it, and wake the best-placed idle worker; where none is idle, have a job yield.
--
-- ARGV[1]  list                   ARGV[2]  envelope
-- ARGV[3]  band                   ARGV[4]  needs as JSON
-- ARGV[5]  delivery tag           ARGV[6]  task id
-- ARGV[7]  mode of placement: critical, normal or low; "" for a queue that needs no device
-- returns  the worker woken, or of several the one idle longest, or ""
--
-- gpumesh:fit:<needs>:<mode>  zset  worker → its node score for such a task
--
-- Refused as a whole by a Redis that is full: the first write needs memory.
--@include _index
--@include _idle
--@realtime
--@preemption

-- Workers looked at in one go; few idle ones are looked up in the ranking, else the ranking is gone through.
local FEW, PAGE = 16, 100
-- Workers woken where none of the idle is known to fit.
local UNJUDGED = 4
-- The lists of a queue, by band.
local LISTS = {critical = '', high = ':3', normal = ':6', low = ':9'}

local list = ARGV[1]
local queue, hash = queue_of(list), P .. 'list:' .. list
local len = call('LPUSH', list, ARGV[2])
local got = call('HMGET', hash, 'base', 'top')
local top = tonumber(got[2] or 0)
local needs = needs_number(ARGV[4])
-- Behind a stranger's it waits to be indexed with it.
if len == top - tonumber(got[1] or 0) + 1 then
  local now = clock()
  call('HSET', hash, 'top', top + 1)
  enter({list = list, id = id_at(list, top, ARGV[2]), at = now, gated = gated_until(queue, now), deliveries = 0, needs = needs, band = ARGV[3],
    tag = ARGV[5], task = ARGV[6]})
end

local idle = P .. 'idle:' .. queue
local count = call('ZCARD', idle)
if ARGV[7] == '' then return count > 0 and wake(call('ZRANGE', idle, 0, 0)[1]) or '' end
local ranked, longest = P .. 'fit:' .. needs .. ':' .. ARGV[7], {}
if count > FEW then
  local from, page = 0, FEW
  while true do
    local names = call('ZREVRANGE', ranked, from, from + page - 1)
    if #names == 0 then break end
    for i, since in ipairs(call('ZMSCORE', idle, unpack(names))) do
      if since then return wake(names[i]) end
    end
    from, page = from + page, PAGE
  end
elseif count > 0 then
  local names, best, best_score = call('ZRANGE', idle, 0, -1), nil, nil
  for i, score in ipairs(call('ZMSCORE', ranked, unpack(names))) do
    score = score and tonumber(score)
    if score and (not best or score > best_score) then best, best_score = names[i], score end
  end
  if best then return wake(best) end
end
if count > 0 then
  -- None of the idle has judged these needs to fit it: those idle longest look. One that finds nothing is idle anew, so
  -- the next publish wakes others.
  longest = call('ZRANGE', idle, 0, UNJUDGED - 1)
  for i = 1, #longest do wake(longest[i]) end
end
-- None is idle: a job that runs yields, unless all were asked.
if find(REALTIME, ',' .. queue .. ',', 1, true) and call('ZCARD', P .. 'running:' .. VICTIMS[1]) +
  call('ZCARD', P .. 'running:' .. VICTIMS[2]) > call('HLEN', P .. 'asked') then
  local now, me, waiting, victim = clock(), '', 0, nil
  if call('EXISTS', ranked) == 1 then
    for band, step in pairs(LISTS) do
      waiting = waiting + call('ZCARD', P .. 'group:' .. needs .. '|' .. band .. '|' .. queue .. step)
    end
--@include _victim
  elseif count == 0 then
    -- Nobody has judged these needs: those look who would yield first.
    for _, lower in ipairs(VICTIMS) do
      for _, job in ipairs(call('ZREVRANGEBYSCORE', P .. 'running:' .. lower, text(now), '-inf', 'LIMIT', 0, UNJUDGED)) do
        local asks = P .. 'asks:' .. match(job, '^[^\t]*')
        call('LPUSH', asks, '')
        call('EXPIRE', asks, 60)
      end
    end
  end
end
return longest[1] or ''

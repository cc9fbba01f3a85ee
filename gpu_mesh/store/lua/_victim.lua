-- One job that yields to what waits: included in a block, after `call`, `match`, `format` and `P` are set, the line for
-- VICTIMS and PATIENCE, and `queue`, `needs` (their number), `waiting` (how many), `now`, `me` (a worker that is known to
-- fit them, or ''). Sets `victim`, its worker, or nil. The rule is domain/preemption.py's. No function: each publish
-- would build it.
--
--   gpumesh:running:<queue>  zset  <worker>\t<delivery tag> of each job that may be preempted → from when on, µs
--   gpumesh:asked            hash  <worker>\t<delivery tag> of each job that was asked → when; space; needs|queue
--   gpumesh:asks:<worker>    list  what its worker hears: delivery tag; tab; queue for which; "": look by yourself
--
-- The claim decides, not these: what no claim stands behind is dropped by who meets it.

victim = nil
local asked, served, cause = {}, 0, needs .. '|' .. queue
local told = call('HGETALL', P .. 'asked')
for i = 1, #told, 2 do
  local holder, tag = match(told[i], '^(.*)\t(.*)$')
  if not holder or call('HEXISTS', P .. 'claims:' .. holder, tag) == 0 then
    call('HDEL', P .. 'asked', told[i])
  else
    asked[told[i]] = true
    local since, what = match(told[i + 1], '^(%d+) (.*)$')
    -- Either way: the clock may step back.
    if what == cause and math.abs(now - since) < PATIENCE then served = served + 1 end
  end
end
local known = served < waiting and match(call('HGET', P .. 'needs', needs) or '', '"gpu_count": (%d+)')
-- What needs several devices waits for them to come free: one that yields would only stand idle.
if served < waiting and not (known and tonumber(known) > 1) and
  not string.find(call('HGET', P .. 'state', ':*') or '', ',' .. queue .. ',', 1, true) then
  for _, lower in ipairs(VICTIMS) do
    local from, page = 0, 8
    while not victim do
      local jobs = call('ZREVRANGEBYSCORE', P .. 'running:' .. lower, format('%.0f', now), '-inf', 'LIMIT', from, page)
      for i = 1, #jobs do
        local worker, tag = match(jobs[i], '^(.*)\t(.*)$')
        if not worker or call('HEXISTS', P .. 'claims:' .. worker, tag) == 0 then
          call('ZREM', P .. 'running:' .. lower, jobs[i])
          from = from - 1
        elseif not asked[jobs[i]] and (worker == me or call('ZSCORE', P .. 'fit:' .. needs .. ':normal', worker)) then
          local node, ends = match(worker, '@(.*)$') or '', call('ZSCORE', P .. 'leases', worker)
          local state = call('HMGET', P .. 'state', ':' .. node, ':' .. worker, '!' .. node, '!' .. worker)
          local closed = (state[1] or '') .. (state[2] or '')
          if ends and tonumber(ends) > now and not state[3] and not state[4] and
            not string.find(closed, ',' .. queue .. ',', 1, true) then
            victim = worker
            call('HSET', P .. 'asked', jobs[i], format('%.0f ', now) .. cause)
            call('LPUSH', P .. 'asks:' .. worker, tag .. '\t' .. queue)
            call('EXPIRE', P .. 'asks:' .. worker, 60)
            break
          end
        end
      end
      if #jobs < page then break end
      from, page = from + page, 64
    end
    if victim then break end
  end
end

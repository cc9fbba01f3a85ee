-- Indexing what strangers pushed: included by look.lua, after _index, _describe and _mend.

-- Index what strangers pushed, at most `limit` messages. Returns how many, and how many are left.
local function adopt(list, queue, now, limit)
  local len = redis.pcall('LLEN', list)
  -- No list: a stranger's key of the same name.
  if type(len) ~= 'number' then return 0, 0 end
  local hash = P .. 'list:' .. list
  local got = call('HMGET', hash, 'base', 'top')
  local base, top = tonumber(got[1] or 0), tonumber(got[2] or 0)
  if len < top - base then
    mend(list)
    got = call('HMGET', hash, 'base', 'top')
    base, top, len = tonumber(got[1] or 0), tonumber(got[2] or 0), call('LLEN', list)
  end
  local new = len - (top - base)
  local upto = top + math.min(new, limit)
  -- Counted from 0: at a top beyond 2^53, which no count of messages makes, one more is the same.
  for i = 0, upto - top - 1 do
    local place = top + i
    -- From whichever end is nearer.
    local left = len - 1 - (place - base)
    local raw = call('LINDEX', list, place - base < left and base - place - 1 or left)
    local m = describe(list, raw)
    local at, gated, deliveries = match(call('HGET', AGAIN, m.tag) or '', '^(%d+)\t(%-?%d+)\t(%d+)$')
    m.list, m.id, m.deliveries = list, id_at(list, place, raw), deliveries or 0
    m.at, m.gated = tonumber(at) or now + place - top, tonumber(gated) or gated_until(queue, now)
    enter(m)
  end
  if upto > top then call('HSET', hash, 'top', upto) end
  return upto - top, top + new - upto
end

-- Index what strangers pushed to the queues that are asked for. Returns how many messages are left to be indexed.
local function look()
  -- The first write needs no memory: this works on a Redis that is full.
  call('DEL', P .. 'nothing')
  local now, limit, left = clock(), tonumber(ARGV[14]), 0
  if ARGV[13] ~= '' and ARGV[13] ~= '1' then mend(ARGV[13]) end
  for queue in string.gmatch(ARGV[15], '[^,]+') do
    for step = 0, 9, 3 do
      local list = step == 0 and queue or queue .. ':' .. step
      local count, rest = adopt(list, queue, now, limit)
      now, limit, left = now + count, limit - count, left + rest
    end
  end
  if left == 0 then call('HSET', P .. 'state', '=looked', text(clock())) end
  return left
end

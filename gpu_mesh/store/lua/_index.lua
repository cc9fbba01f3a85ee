-- The index of waiting messages: included by the scripts that change it, no script itself.
--
-- A queue's messages lie in stock Redis lists (one per priority step), pushed left by any Celery client. The index says
-- where in its list each message lies, how long it waits and what it needs, so that a claim reads one message only:
-- the one it takes. Times are Redis's, in µs since the epoch.
--
--   gpumesh:list:<list>  hash    base → position of the list's last (oldest) element: positions count from there to the
--                                left   top → position that the next message indexed gets
--                                A message's id is the position it came in at; of those that lie elsewhere now, that
--                                were given back (r…) or are big (b…):   m<id> → position       o<position> → id
--   gpumesh:group:<g>    zset    "<id> <at> <gated> <deliveries> <delivery tag> <task id>" by at;
--                                <g> = <needs>|<band>|<list>, needs 0 for what is no message
--   gpumesh:class:<c>    zset    its groups that are not empty, by the time of their oldest message; <c> = <queue>|<band>
--   gpumesh:classes      hash    every class that is not empty → the time of its oldest message or an earlier one
--   gpumesh:needs        hash    number → needs as JSON; and =<that text> → number
--   gpumesh:again        hash    delivery tag → at, gated, deliveries of a message that was given back; tab-separated
--   gpumesh:gated        hash    queue → how long it was closed for the whole mesh so far; +<queue> → since when it is
--
-- Strangers may push at any time: what they pushed is indexed by the next look (look.lua). Strangers who take (a stock
-- worker, a purge) make the index wrong; that shows when a message is not where it should be, and is mended.

local call, find, match, format = redis.call, string.find, string.match, string.format
local P = 'gpumesh:'
local NEEDS, AGAIN, CLASSES = 'gpumesh:needs', 'gpumesh:again', 'gpumesh:classes'

local function clock()
  local t = call('TIME')
  return t[1] * 1e6 + t[2]
end

-- A time as text: Lua would write 1.7e+15.
local function text(number)
  return format('%.0f', number)
end

local function split(line)
  local parts = {}
  for part in string.gmatch(line .. '\t', '([^\t]*)\t') do parts[#parts + 1] = part end
  return parts
end

local function queue_of(list)
  return match(list, '^(.*):[369]$') or list
end

-- How long a queue was closed until now.
local function gated_until(queue, now)
  local got = call('HMGET', P .. 'gated', queue, '+' .. queue)
  return math.max(0, tonumber(got[1] or 0)) + (got[2] and math.max(0, now - got[2]) or 0)
end

-- Envelopes that are not moved about, bytes.
local BIG = 65536

-- The id of a message that came in at a position.
local function id_at(list, place, raw)
  if #raw <= BIG then return place end
  call('HSET', P .. 'list:' .. list, 'mb' .. place, place, 'o' .. place, 'b' .. place)
  return 'b' .. place
end

-- Enter a message that lies in its list. m: list, id, at, gated, deliveries, needs, band, tag, task. Its position and
-- the list's base and top are the caller's to write.
local function enter(m)
  local group, class = m.needs .. '|' .. m.band .. '|' .. m.list, queue_of(m.list) .. '|' .. m.band
  local at = text(m.at)
  call('ZADD', P .. 'group:' .. group, at,
    table.concat({m.id, at, text(m.gated), m.deliveries, m.tag, m.task}, ' '))
  call('ZADD', P .. 'class:' .. class, 'LT', at, group)
  local bound = call('HGET', CLASSES, class)
  if not bound or m.at < tonumber(bound) then call('HSET', CLASSES, class, at) end
end

-- Keep an envelope that cannot be run, with the reason.
local function bury(list, raw, why)
  why.list = list
  call('LPUSH', P .. 'dead', cjson.encode(why) .. '\n' .. raw)
end

-- The number of a text of needs, made up when it is new.
local function needs_number(needs)
  local number = call('HGET', NEEDS, '=' .. needs)
  if not number then
    number = text(call('HINCRBY', NEEDS, 'next', 1))
    call('HSET', NEEDS, '=' .. needs, number, number, needs)
  end
  return number
end

-- The index of waiting messages: included by the scripts below, no script itself.
--
-- A queue's messages lie in stock Redis lists (one per priority step), pushed left by any Celery client. The index says
-- where in its list each message lies, how long it waits and what it needs, so that a claim reads one message only:
-- the one it takes.
--
--   gpumesh:list:<list>  hash    base → sequence number of the list's last (oldest) element
--                                n → how many elements from there on are indexed
--                                q<sequence number> → uid        p<uid> → sequence number
--                                <uid> → at, gated, deliveries, band, delivery tag, task id; tab-separated
--   gpumesh:group:<g>    zset    uids of one group by time, <g> = <list>|<band>|<needs>
--   gpumesh:class:<c>    zset    its groups that are not empty, by the time of their oldest message, <c> = <queue>|<band>
--   gpumesh:classes      zset    every class that is not empty, by the time of its oldest message
--   gpumesh:uid          string  the last uid given
--   gpumesh:needs        hash    number → needs as JSON; and =<that text> → number
--   gpumesh:again        hash    delivery tag → at, gated, deliveries of a message that was given back
--   gpumesh:gated        hash    queue → seconds it was gated so far
--
-- Strangers may push at any time: what they pushed is indexed by the next claim (`adopt`). Strangers who take (a stock
-- worker, a purge) make the index wrong; that shows when a message is not where it should be, and the list's index is
-- made anew (`forget`).

local call, find, match, format = redis.call, string.find, string.match, string.format
local P = 'gpumesh:'
local CLASSES, NEEDS, AGAIN = 'gpumesh:classes', 'gpumesh:needs', 'gpumesh:again'

-- Redis's time as text with six decimals: what is stored; numbers are read from it.
local function clock()
  local t = call('TIME')
  return format('%s.%06d', t[1], t[2])
end

local function split(text)
  local parts = {}
  for part in string.gmatch(text .. '\t', '([^\t]*)\t') do parts[#parts + 1] = part end
  return parts
end

local function queue_of(list)
  return match(list, '^(.*):[369]$') or list
end

-- Enter a message. m: list, q, at, gated, deliveries, needs, band, tag, id; base and n: of its list from now on.
local function enter(m, base, n)
  local uid, list = format('%015d', call('INCR', P .. 'uid')), m.list
  call('HSET', P .. 'list:' .. list, 'base', base, 'n', n, 'q' .. m.q, uid, 'p' .. uid, m.q, uid,
    table.concat({m.at, m.gated, m.deliveries, m.band, m.tag, m.id}, '\t'))
  local group, class = list .. '|' .. m.band .. '|' .. m.needs, queue_of(list) .. '|' .. m.band
  call('ZADD', P .. 'group:' .. group, m.at, uid)
  call('ZADD', P .. 'class:' .. class, 'LT', m.at, group)
  call('ZADD', CLASSES, 'LT', m.at, class)
end

-- Keep an envelope that cannot be run, with the reason.
local function bury(list, raw, why)
  why.list = list
  call('LPUSH', P .. 'dead', cjson.encode(why) .. '\n' .. raw)
end

-- A claim as it is kept (claim.lua): its fields, and the envelope.
local function read_claim(held)
  local stop = find(held, '\n', 1, true)
  local f = split(string.sub(held, 1, stop - 1))
  return {list = f[1], at = f[2], gated = f[3], deliveries = tonumber(f[4]), needs = f[5], band = f[6], id = f[8]},
    string.sub(held, stop + 1)
end

-- The number of a text of needs, made up when it is new.
local function needs_number(text)
  local number = call('HGET', NEEDS, '=' .. text)
  if not number then
    number = tostring(call('HINCRBY', NEEDS, 'next', 1))
    call('HSET', NEEDS, '=' .. text, number, number, text)
  end
  return number
end

-- Jobs of several devices: included by _claim.lua.

-- Siblings that would serve a job together with this device: as many as it needs; whether all are there; and if not,
-- whether they will be: one that is cordoned or gone may be so for long.
local team
if ARGV[11] ~= '' then
  team = function(needs)
    local count, names = match(ARGV[11], '\n' .. needs .. ' (%d+)([^\n]*)\n')
    if not count then return '', true end
    local free, left, able = {}, tonumber(count), 0
    for name in string.gmatch(names, '%S+') do
      local ends = call('ZSCORE', P .. 'leases', name)
      if left > 0 and ends and tonumber(ends) > now then
        local got = call('HMGET', P .. 'state', '+' .. name, '!' .. name)
        local holder, tag = match(got[1] or '', '^(.*)\t(.*)$')
        if not got[2] then
          able = able + 1
          -- Busy neither with a job of its own nor with a sibling's.
          if call('HLEN', P .. 'claims:' .. name) == 0 and
            (not holder or call('HEXISTS', P .. 'claims:' .. holder, tag) == 0) then
            free[#free + 1] = name
            left = left - 1
          end
        end
      end
    end
    return table.concat(free, ','), left == 0, able >= tonumber(count)
  end
end

-- Whether the node's idle devices are kept for job m, which lacks some: one job at a time, the most important one.
local function gathers(m, rank)
  if tonumber(ARGV[10]) == 0 then return false end
  local kept = call('HGET', P .. 'gather', node)
  local group, id, of, til, again = match(kept or '', '^(.*)\t(.*)\t(.*)\t(.*)\t(.*)$')
  -- What is further ahead than it can be was written before the clock stepped back.
  local keeps = group and now < tonumber(til) and til - now <= tonumber(ARGV[10])
  if group == m.group and id == m.id then
    if keeps then return true end
    if now < tonumber(again) and again - now <= 2 * ARGV[10] then return false end
  elseif keeps and rank <= tonumber(of) then
    local head = call('ZRANGE', P .. 'group:' .. group, 0, 0)[1]
    if head and find(head, id .. ' ', 1, true) == 1 then return false end
  end
  m.gather = format('%s\t%s\t%.17g\t%.0f\t%.0f', m.group, m.id, rank, now + ARGV[10], now + 2 * ARGV[10])
  return true
end

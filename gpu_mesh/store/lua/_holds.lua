-- Whether realtime jobs hold ai-batch back from a worker: included by scripts that claim or look, after `call`, `match`,
-- `P`, `worker` and `node` are set. The rule is domain/holds.py's.
--
--   gpumesh:realtime:<scope>  zset  <worker>\t<delivery tag> of each realtime job that holds ai-batch back there → since
--                                   when; <scope> is *, a node or a worker
--
-- The claim decides, not this account of it: what is written here and no claim any more holds nothing back and is
-- dropped. So a script that knows nothing of holds, or a hand that deletes claims, leaves none behind.

-- The scopes in which one does.
local holds = {}
if call('EXISTS', P .. 'realtime:*', P .. 'realtime:' .. node, P .. 'realtime:' .. worker) > 0 then
  for _, scope in ipairs({'*', node, worker}) do
    while true do
      local first = call('ZRANGE', P .. 'realtime:' .. scope, 0, 0)[1]
      if not first then break end
      local holder, tag = match(first, '^(.*)\t(.*)$')
      if holder and call('HEXISTS', P .. 'claims:' .. holder, tag) == 1 then
        holds[#holds + 1] = scope
        break
      end
      call('ZREM', P .. 'realtime:' .. scope, first)
    end
  end
end

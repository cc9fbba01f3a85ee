-- Telling the statistics of a claim that ended otherwise than by an ack: included after _let_go.

-- Where at an envelope's end the task's name is looked for, bytes. Quoted text cannot hold what is looked for.
local NAMED = 16384

-- `m` and `raw` as read_claim gives them. The mesh's own tasks are not counted.
local function tell(worker, m, raw, outcome)
  if raw and string.find(raw, '"task": "mesh.', -NAMED, true) then return end
  local ok, needs = pcall(cjson.decode, call('HGET', P .. 'needs', m.needs) or '')
  local model = ok and type(needs) == 'table' and type(needs.model) == 'string' and needs.model or ''
  model = string.sub(string.gsub(model, '[^ -~]', '?'), 1, 200)
  local record, siblings, ran = m.record, m.siblings, ''
--@include _ended
end

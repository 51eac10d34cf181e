-- ARGV[3]: a commit; the rest: the bodies for its quarantine, which may be any bytes. All of it is looked at
-- before anything is written, since a script is not rolled back.
local commit = cmsgpack.unpack(ARGV[3])

-- Tried again because its answer was lost? Or so late that its caller has given up?
local done = redis.call('HGET', key('done'), commit.client)
if done and string.match(done, '^%d+') == commit.number then
  return answer('ok')
end
if micros() > commit.deadline then
  return answer('late')
end

-- Is everything that was read still as it was?
for _, read in ipairs(commit.read) do
  local known = place(read[1])
  if (known and known.version or 0) ~= read[2] then
    return answer('conflict')
  end
end
for _, read in ipairs(commit.tasks_with_sources) do
  if #tasks_with_sources(read[1]) ~= read[2] then
    return answer('conflict')
  end
end
for _, digest in ipairs(commit.released) do
  if redis.call('HEXISTS', key('held'), digest) == 0 then
    return answer('conflict')
  end
end
if #commit.label_sets > 0 and redis.call('HLEN', key('ledgers')) ~= commit.label_sets_known then
  return answer('conflict')
end
if #commit.seen > 0 and redis.call('SCARD', key('seen')) ~= commit.seen_known then
  return answer('conflict')
end

-- It holds: write.
local version = redis.call('HINCRBY', KEYS[1], 'commits', 1)
redis.call('HSET', key('done'), commit.client, commit.number .. ' ' .. string.format('%.0f', micros()))

local function leave(name, known)
  if known.rank < 4 then
    redis.call('ZREM', key('state:' .. known.rank), name)
  end
  if known.sources ~= '' then
    redis.call('ZREM', key('sources'), known.sources .. ' ' .. name)
  end
end

for _, new in ipairs(commit.label_sets) do
  local labels, number, created = new[1], new[2], new[3]
  redis.call('HSET', key('ledgers'), labels, number)
  redis.call('HSET', key('ledger:' .. number), 'created', created)
end
for _, name in ipairs(commit.forgotten) do
  local known = place(name)
  if known then
    leave(name, known)
    redis.call('HDEL', key('tasks'), name)
    redis.call('HDEL', key('places'), name)
    redis.call('ZREM', key('due'), name)
  end
end
for _, row in ipairs(commit.rows) do
  local name, record, due = row[1], row[2], row[5]
  local known = place(name)
  local now = {rank = row[3], ledger = row[4], sources = row[6]}
  now.id = known and known.id or redis.call('HINCRBY', KEYS[1], 'tasks', 1)
  if not known or known.rank ~= now.rank or known.ledger ~= now.ledger or known.sources ~= now.sources then
    if known then
      leave(name, known)
    end
    enter(name, now)
  end
  keep(name, record, due, version, now)
end
for _, increments in ipairs(commit.increments) do
  local ledger = key('ledger:' .. increments[1])
  for _, value in ipairs(increments[2]) do
    redis.call('HINCRBY', ledger, 'v' .. value[1], value[2])
  end
  for _, mark in ipairs(increments[3]) do
    if tonumber(redis.call('HGET', ledger, 'm' .. mark[1]) or 0) < tonumber(mark[2]) then
      redis.call('HSET', ledger, 'm' .. mark[1], mark[2])
    end
  end
  for _, exemplar in ipairs(increments[4]) do
    redis.call('HSET', ledger, 'e' .. exemplar[1], exemplar[2])
  end
end
for _, mark in ipairs(commit.seen) do
  redis.call('SADD', key('seen'), mark)
end

-- The quarantine: what it does depends on nothing that was read, so it is decided here.
local function give_up(digest)
  local facts = cmsgpack.unpack(redis.call('HGET', key('held'), digest))
  redis.call('HINCRBY', KEYS[1], 'bytes', 0 - facts.size)  -- of an empty body -0 is no whole number to Redis
  redis.call('HDEL', key('held'), digest)
  redis.call('HDEL', key('bodies'), digest)
  redis.call('ZREM', key('last'), digest)
end

for _, digest in ipairs(commit.released) do
  give_up(digest)
end
for index, entry in ipairs(commit.quarantine_entries) do
  local digest, reason, source, arrival = unpack(entry)
  local body = ARGV[3 + index]
  local text = redis.call('HGET', key('held'), digest)
  local facts = text and cmsgpack.unpack(text)
  if not facts then
    facts = {reason = reason, count = 0, first = arrival, last = arrival, size = #body}
    redis.call('HSET', key('bodies'), digest, body)
    redis.call('HINCRBY', KEYS[1], 'bytes', #body)
    redis.call('HINCRBY', key('ledger:0'), 'vquarantined_bodies_total ' .. reason, 1)
  end
  facts.count, facts.source = facts.count + 1, source
  facts.first, facts.last = math.min(facts.first, arrival), math.max(facts.last, arrival)
  redis.call('HSET', key('held'), digest, cmsgpack.pack(facts))
  redis.call('ZADD', key('last'), string.format('%.17g', facts.last), digest)
end
if commit.bounds then
  local bodies, bytes, since = unpack(commit.bounds)
  local evicted = 0
  while true do
    local oldest = redis.call('ZRANGE', key('last'), 0, 0, 'WITHSCORES')
    local is_past = oldest[1] and (
      redis.call('ZCARD', key('last')) > bodies
      or tonumber(redis.call('HGET', KEYS[1], 'bytes')) > bytes
      or tonumber(oldest[2]) < since
    )
    if not is_past then
      break
    end
    give_up(oldest[1])
    evicted = evicted + 1
  end
  if evicted > 0 then
    redis.call('HINCRBY', key('ledger:0'), 'vquarantine_evicted_total', evicted)
  end
end
return answer('ok')

-- Commits a transaction. Everything is checked before anything is written, since a script is not rolled back.
-- ARGV[3]: the commit, as `transaction.Commit` has it; the rest: the bodies for the quarantine. Bodies may be any
-- bytes, so they are not in the commit.
local commit = cmsgpack.unpack(ARGV[3])

-- A commit is sent again if its answer was lost. Then it must not count twice.
local done = redis.call('HGET', key('done'), commit.client)
if done and string.match(done, '^%d+') == commit.number then
  return answer('ok')
end
-- After the deadline the exporter has answered 503. A commit now would count a callback twice, because the sender
-- sends it again.
if micros() > commit.deadline then
  return answer('late')
end

-- Everything that the transaction has read must be unchanged.
for _, read in ipairs(commit.read) do
  local info = read_info(read[1])
  if (info and info.version or 0) ~= read[2] then
    return answer('conflict')
  end
end
for _, read in ipairs(commit.tasks_with_sources) do
  if #tasks_with_sources(read[1]) ~= read[2] then
    return answer('conflict')
  end
end
for _, digest in ipairs(commit.deleted_bodies) do
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

-- From here on the script writes.
local version = redis.call('HINCRBY', KEYS[1], 'commits', 1)
redis.call('HSET', key('done'), commit.client, commit.number .. ' ' .. string.format('%.0f', micros()))

local function remove_from_indexes(name, info)
  if info.rank < 4 then
    redis.call('ZREM', key('state:' .. info.rank), name)
  end
  if info.sources ~= '' then
    redis.call('ZREM', key('sources'), info.sources .. ' ' .. name)
  end
end

for _, new in ipairs(commit.label_sets) do
  local labels, number, created = new[1], new[2], new[3]
  redis.call('HSET', key('ledgers'), labels, number)
  redis.call('HSET', key('ledger:' .. number), 'created', created)
end
for _, name in ipairs(commit.deleted) do
  local info = read_info(name)
  if info then
    remove_from_indexes(name, info)
    redis.call('HDEL', key('tasks'), name)
    redis.call('HDEL', key('places'), name)
    redis.call('ZREM', key('due'), name)
  end
end
for _, row in ipairs(commit.rows) do
  local name, record, due = row[1], row[2], row[5]
  local old = read_info(name)
  local new = {rank = row[3], label_set = row[4], sources = row[6]}
  new.id = old and old.id or redis.call('HINCRBY', KEYS[1], 'tasks', 1)
  -- Most commits change nothing that the indexes have.
  if not old or old.rank ~= new.rank or old.label_set ~= new.label_set or old.sources ~= new.sources then
    if old then
      remove_from_indexes(name, old)
    end
    add_to_indexes(name, new)
  end
  write_task(name, record, due, version, new)
end
for _, increments in ipairs(commit.increments) do
  local label_set = key('ledger:' .. increments[1])
  for _, value in ipairs(increments[2]) do
    redis.call('HINCRBY', label_set, 'v' .. value[1], value[2])
  end
  for _, time in ipairs(increments[3]) do
    if tonumber(redis.call('HGET', label_set, 'm' .. time[1]) or 0) < tonumber(time[2]) then
      redis.call('HSET', label_set, 'm' .. time[1], time[2])
    end
  end
  for _, exemplar in ipairs(increments[4]) do
    redis.call('HSET', label_set, 'e' .. exemplar[1], exemplar[2])
  end
end
for _, value in ipairs(commit.seen) do
  redis.call('SADD', key('seen'), value)
end

-- The quarantine. Its changes depend on nothing that the transaction has read, so they are decided here.
local function delete_body(digest)
  local info = cmsgpack.unpack(redis.call('HGET', key('held'), digest))
  -- Not `-info.size`: for an empty body that is -0, which Redis does not accept as a whole number.
  redis.call('HINCRBY', KEYS[1], 'bytes', 0 - info.size)
  redis.call('HDEL', key('held'), digest)
  redis.call('HDEL', key('bodies'), digest)
  redis.call('ZREM', key('last'), digest)
end

for _, digest in ipairs(commit.deleted_bodies) do
  delete_body(digest)
end
for index, entry in ipairs(commit.quarantine_entries) do
  local digest, reason, source, arrival = unpack(entry)
  local body = ARGV[3 + index]
  local text = redis.call('HGET', key('held'), digest)
  local info = text and cmsgpack.unpack(text)
  if not info then
    info = {reason = reason, count = 0, first = arrival, last = arrival, size = #body}
    redis.call('HSET', key('bodies'), digest, body)
    redis.call('HINCRBY', KEYS[1], 'bytes', #body)
    redis.call('HINCRBY', key('ledger:0'), 'vquarantined_bodies_total ' .. reason, 1)
  end
  info.count, info.source = info.count + 1, source
  info.first, info.last = math.min(info.first, arrival), math.max(info.last, arrival)
  redis.call('HSET', key('held'), digest, cmsgpack.pack(info))
  redis.call('ZADD', key('last'), string.format('%.17g', info.last), digest)
end
if commit.quarantine_limits then
  local bodies, bytes, since = unpack(commit.quarantine_limits)
  local evicted = 0
  while true do
    local oldest = redis.call('ZRANGE', key('last'), 0, 0, 'WITHSCORES')
    local is_too_much = oldest[1] and (
      redis.call('ZCARD', key('last')) > bodies
      or tonumber(redis.call('HGET', KEYS[1], 'bytes')) > bytes
      or tonumber(oldest[2]) < since
    )
    if not is_too_much then
      break
    end
    delete_body(oldest[1])
    evicted = evicted + 1
  end
  if evicted > 0 then
    redis.call('HINCRBY', key('ledger:0'), 'vquarantine_evicted_total', evicted)
  end
end
return answer('ok')

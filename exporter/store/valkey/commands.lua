-- Commands on the store that the exporter knows: reads, and writes that do not depend on what was read before.
-- ARGV[3] is the name of a command; ARGV[4...] are its arguments.
local arguments, commands = {}, {}
for index = 4, #ARGV do
  arguments[index - 3] = ARGV[index]
end

-- Returns the labels and the numbers of all label sets, and the label values that have been seen.
function commands.seen_labels()
  return answer('ok', redis.call('HGETALL', key('ledgers')), redis.call('SMEMBERS', key('seen')))
end

-- Sets the settings that decide what is counted. If they were different, all tasks become due.
function commands.set_settings(fingerprint)
  if redis.call('HGET', KEYS[1], 'judged_by') ~= fingerprint then
    redis.call('HSET', KEYS[1], 'judged_by', fingerprint)
    redis.call('ZUNIONSTORE', key('due'), 1, key('due'), 'WEIGHTS', 0)
  end
  return answer('ok')
end

-- Writes bytes. Returns how many of them can be read back.
function commands.probe(bytes)
  redis.call('SET', key('probed'), bytes)
  return answer('ok', redis.call('STRLEN', key('probed')))
end

-- Returns up to `limit` keys of tasks that are due at `now`, the longest overdue first.
function commands.due_keys(now, limit)
  return answer('ok', redis.call('ZRANGEBYSCORE', key('due'), '-inf', now, 'LIMIT', 0, limit))
end

-- The arguments are keys of tasks. Returns their records, their versions, and 1 for each task that has a state. Each of
-- the three is one text, since the client is slow to read many short answers.
function commands.read_tasks()
  local has_state = {}
  local found, infos = read_tasks(arguments)
  for index, info in ipairs(infos) do
    has_state[index] = info and info.rank < 4 and 1 or 0
  end
  return answer('ok', join_lines(found), table.concat(versions_of(infos), ' '), table.concat(has_state, ' '))
end

-- Returns the keys, the records and the versions of the tasks with these sources.
function commands.tasks_with_sources(sources)
  local names = tasks_with_sources(sources)
  local found, infos = read_tasks(names)
  return answer('ok', names, join_lines(found), table.concat(versions_of(infos), ' '))
end

-- Returns 1 if the body with this digest is in the quarantine, else 0.
function commands.has_body(digest)
  return answer('ok', redis.call('HEXISTS', key('held'), digest))
end

-- The arguments are the maximum number of tasks, and the ranks of states in order. Returns the fleet's values; for each
-- other label set its labels, its values, and its number of tasks in each of these states; the records of tasks as
-- lines; the number of all tasks; and the number of bodies in the quarantine.
function commands.snapshot()
  local limit, sizes, total, tasks, sets = tonumber(arguments[1]), {}, 0, {}, {}
  for index = 2, #arguments do
    local state = key('state:' .. arguments[index])
    sizes[index] = redis.call('ZCARD', state)
    total = total + sizes[index]
    if #tasks < limit then
      read_fields(key('tasks'), redis.call('ZRANGE', state, 0, limit - #tasks - 1), tasks)
    end
  end
  local label_sets = redis.call('HGETALL', key('ledgers'))
  for at = 1, #label_sets, 2 do
    local labels, number = label_sets[at], label_sets[at + 1]
    -- Number 0 is the fleet.
    if number ~= '0' then
      local counts = {}
      -- The tasks of a label set are a range of scores, see `add_to_indexes`.
      local low, high = string.format('%.0f', number * 4294967296), string.format('(%.0f', (number + 1) * 4294967296)
      for index = 2, #arguments do
        counts[index - 1] = sizes[index] > 0 and redis.call('ZCOUNT', key('state:' .. arguments[index]), low, high) or 0
      end
      sets[#sets + 1] = {labels, label_set_json(number), counts}
    end
  end
  return answer('ok', label_set_json(0), sets, table.concat(tasks, '\n'), total, redis.call('HLEN', key('held')))
end

-- The arguments are a position, the maximum number of tasks, and the ranks of states. Returns positions and records in
-- turn.
function commands.list_tasks(after, limit)
  local found = {}
  for index = 3, #arguments do
    local part = redis.call(
      'ZRANGEBYSCORE', key('state:' .. arguments[index]), '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, limit
    )
    for each = 1, #part, 2 do
      found[#found + 1] = {part[each], part[each + 1]}
    end
  end
  table.sort(found, function(one, other) return tonumber(one[2]) < tonumber(other[2]) end)
  local page = {}
  for index = 1, math.min(#found, tonumber(limit)) do
    page[#page + 1] = found[index][2]
    page[#page + 1] = redis.call('HGET', key('tasks'), found[index][1])
  end
  return answer('ok', page)
end

-- Returns up to `limit` bodies of the quarantine by first arrival, starting after the one with this first arrival and
-- digest. `reason` is empty for every reason; `prefix` is the beginning of digests. Each body: digest, reason, body,
-- source, count, first and last arrival.
function commands.bodies(limit, reason, prefix, first, after)
  local found, infos = {}, redis.call('HGETALL', key('held'))
  first = tonumber(first)
  for index = 1, #infos, 2 do
    local digest, info = infos[index], cmsgpack.unpack(infos[index + 1])
    if (info.first > first or (info.first == first and digest > after))
      and (reason == '' or reason == info.reason) and string.sub(digest, 1, #prefix) == prefix then
      info.digest = digest
      found[#found + 1] = info
    end
  end
  table.sort(found, function(one, other)
    return one.first < other.first or (one.first == other.first and one.digest < other.digest)
  end)
  local page = {}
  for index = 1, math.min(#found, tonumber(limit)) do
    local info = found[index]
    -- 17 digits keep a float exact; Redis would cut a Lua number to a whole one.
    page[index] = {
      info.digest, info.reason, redis.call('HGET', key('bodies'), info.digest), info.source, info.count,
      string.format('%.17g', info.first), string.format('%.17g', info.last),
    }
  end
  return answer('ok', page)
end

-- Five is the largest number of arguments with a name. More could exceed what Lua can unpack.
return commands[ARGV[3]](unpack(arguments, 1, math.min(#arguments, 5)))

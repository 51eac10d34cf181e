-- Reads, and writes that decide nothing, on a store that is known: ARGV[3] is the name of one, ARGV[4...] are its
-- arguments.
local arguments, commands = {}, {}
for index = 4, #ARGV do
  arguments[index - 3] = ARGV[index]
end

-- What has been told apart so far, and is never forgotten: label sets with their numbers, and label values.
function commands.bounds()
  return answer('ok', redis.call('HGETALL', key('ledgers')), redis.call('SMEMBERS', key('seen')))
end

-- The settings that decide what is counted. With others all tasks become due.
function commands.judge(judged_by)
  if redis.call('HGET', KEYS[1], 'judged_by') ~= judged_by then
    redis.call('HSET', KEYS[1], 'judged_by', judged_by)
    redis.call('ZUNIONSTORE', key('due'), 1, key('due'), 'WEIGHTS', 0)
  end
  return answer('ok')
end

-- As much as a batch writes. Answers how much of it can be read back.
function commands.probe(bytes)
  redis.call('SET', key('probed'), bytes)
  return answer('ok', redis.call('STRLEN', key('probed')))
end

-- A time, and how many at most. Answers keys of tasks that are due by then, longest first.
function commands.due(now, most)
  return answer('ok', redis.call('ZRANGEBYSCORE', key('due'), '-inf', now, 'LIMIT', 0, most))
end

-- Keys of tasks. Answers their records, their versions, and 1 for each that has a state; each of these in one
-- text, since the client reads many short answers slowly.
function commands.read()
  local shown = {}
  local found, places = records(arguments)
  for index, known in ipairs(places) do
    shown[index] = known and known.rank < 4 and 1 or 0
  end
  return answer('ok', lines(found), table.concat(versions(places), ' '), table.concat(shown, ' '))
end

-- A digest of sources. Answers keys, records and versions of the tasks that pull from them.
function commands.tasks_with_sources(sources)
  local names = tasks_with_sources(sources)
  local found, places = records(names)
  return answer('ok', names, lines(found), table.concat(versions(places), ' '))
end

-- A digest. Answers whether that body is in the quarantine.
function commands.holds(digest)
  return answer('ok', redis.call('HEXISTS', key('held'), digest))
end

-- How many tasks at most, and the ranks of states in order. Answers the fleet's ledger; of each other label set its
-- labels, its ledger, and how many tasks it has in each of these states; the tasks as lines; and how many tasks and
-- bodies there are.
function commands.snapshot()
  local most, sizes, total, tasks, sets = tonumber(arguments[1]), {}, 0, {}, {}
  for index = 2, #arguments do
    local state = key('state:' .. arguments[index])
    sizes[index] = redis.call('ZCARD', state)
    total = total + sizes[index]
    if #tasks < most then
      fields(key('tasks'), redis.call('ZRANGE', state, 0, most - #tasks - 1), tasks)
    end
  end
  local ledgers = redis.call('HGETALL', key('ledgers'))
  for at = 1, #ledgers, 2 do
    local labels, number = ledgers[at], ledgers[at + 1]
    if number ~= '0' then
      local counts = {}
      -- The tasks of a ledger stand together, as `enter` orders them.
      local low, high = string.format('%.0f', number * 4294967296), string.format('(%.0f', (number + 1) * 4294967296)
      for index = 2, #arguments do
        counts[index - 1] = sizes[index] > 0 and redis.call('ZCOUNT', key('state:' .. arguments[index]), low, high) or 0
      end
      sets[#sets + 1] = {labels, ledger(number), counts}
    end
  end
  return answer('ok', ledger(0), sets, table.concat(tasks, '\n'), total, redis.call('HLEN', key('held')))
end

-- A position, how many tasks at most, and ranks of states. Answers positions and records by turns.
function commands.listing(after, most)
  local found = {}
  for index = 3, #arguments do
    local part = redis.call(
      'ZRANGEBYSCORE', key('state:' .. arguments[index]), '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, most
    )
    for each = 1, #part, 2 do
      found[#found + 1] = {part[each], part[each + 1]}
    end
  end
  table.sort(found, function(one, other) return tonumber(one[2]) < tonumber(other[2]) end)
  local page = {}
  for index = 1, math.min(#found, tonumber(most)) do
    page[#page + 1] = found[index][2]
    page[#page + 1] = redis.call('HGET', key('tasks'), found[index][1])
  end
  return answer('ok', page)
end

-- How many at most, a reason or nothing, the beginning of digests, first arrival and digest to begin after. Answers
-- of each body: digest, reason, itself, source, count, first and last arrival.
function commands.bodies(most, reason, prefix, first, after)
  local found, held = {}, redis.call('HGETALL', key('held'))
  first = tonumber(first)
  for index = 1, #held, 2 do
    local digest, facts = held[index], cmsgpack.unpack(held[index + 1])
    if (facts.first > first or (facts.first == first and digest > after))
      and (reason == '' or reason == facts.reason) and string.sub(digest, 1, #prefix) == prefix then
      facts.digest = digest
      found[#found + 1] = facts
    end
  end
  table.sort(found, function(one, other)
    return one.first < other.first or (one.first == other.first and one.digest < other.digest)
  end)
  local page = {}
  for index = 1, math.min(#found, tonumber(most)) do
    local facts = found[index]
    page[index] = {
      facts.digest, facts.reason, redis.call('HGET', key('bodies'), facts.digest), facts.source, facts.count,
      string.format('%.17g', facts.first), string.format('%.17g', facts.last),
    }
  end
  return answer('ok', page)
end

return commands[ARGV[3]](unpack(arguments, 1, math.min(#arguments, 5)))

-- In front of every script. KEYS[1] is the store's `meta`; all its keys have the same tag, so the same slot.
local at = string.match(KEYS[1], '^(.*:)meta$')

local function key(name)
  return at .. name
end

local function micros()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Every answer begins with what became of it, the number of commits, and the server's time.
local function answer(status, ...)
  return {status, tonumber(redis.call('HGET', KEYS[1], 'commits') or 0), micros(), ...}
end

-- What the caller knows of the store: ARGV[1] which one it is; ARGV[2] how many commits it has seen, who asks,
-- and the number of its last one. It must still be that store, and no older than it was: others may have made
-- up for the number of commits, but not for one's own.
local function stranger()
  local id, commits, torn = unpack(redis.call('HMGET', KEYS[1], 'id', 'commits', 'torn'))
  if id ~= ARGV[1] then
    return id and 'other' or 'empty'
  end
  local seen, client, own = string.match(ARGV[2], '^(%d+) (%S+) (%d+)$')
  local known = string.match(redis.call('HGET', key('done'), client) or own, '^%d+')
  if torn or tonumber(commits) < tonumber(seen) or tonumber(known) < tonumber(own) then
    return 'older'
  end
  return nil
end

-- The fields of a hash, read in few calls: each costs more than what it reads. Adds them to `found`.
local function fields(hash, names, found)
  for first = 1, #names, 1000 do
    local some = redis.call('HMGET', hash, unpack(names, first, math.min(first + 999, #names)))
    for index, value in ipairs(some) do
      found[#found + 1] = value
    end
  end
  return found
end

-- What is known of a task beside its record: "version rank ledger id sources".
local function parsed(text)
  if not text then
    return nil
  end
  local version, rank, ledger, id, sources = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  return {
    version = tonumber(version), rank = tonumber(rank), ledger = tonumber(ledger), id = tonumber(id),
    sources = sources,
  }
end

local function place(name)
  return parsed(redis.call('HGET', key('places'), name))
end

-- Records of tasks, and of each its place; false where there is none.
local function records(names)
  local places = fields(key('places'), names, {})
  for index, text in ipairs(places) do
    places[index] = parsed(text) or false
  end
  return fields(key('tasks'), names, {}), places
end

-- Records as lines, an empty one for each that is not there.
local function lines(found)
  for index, record in ipairs(found) do
    found[index] = record or ''
  end
  return table.concat(found, '\n')
end

local function versions(places)
  local found = {}
  for index, known in ipairs(places) do
    found[index] = known and known.version or 0
  end
  return found
end

local function ledger(number)
  return cjson.encode(redis.call('HGETALL', key('ledger:' .. number)))
end

-- Where a task is found by its state and its sources.
local function enter(name, known)
  if known.rank < 4 then
    -- In the order of ledgers, then of age: how many of a ledger there are is the size of a range.
    local score = string.format('%.0f', known.ledger * 4294967296 + known.id)
    redis.call('ZADD', key('state:' .. known.rank), score, name)
  end
  if known.sources ~= '' then
    redis.call('ZADD', key('sources'), 0, known.sources .. ' ' .. name)
  end
end

-- The task itself, its place, and when it is due.
local function keep(name, record, due, version, known)
  local place = string.format('%.0f %d %d %.0f %s', version, known.rank, known.ledger, known.id, known.sources)
  redis.call('HSET', key('tasks'), name, record)
  redis.call('HSET', key('places'), name, place)
  redis.call('ZADD', key('due'), due, name)
end

local function tasks_with_sources(sources)
  local names = redis.call('ZRANGEBYLEX', key('sources'), '[' .. sources .. ' ', '(' .. sources .. '!')
  for index, member in ipairs(names) do
    names[index] = string.sub(member, #sources + 2)
  end
  return names
end

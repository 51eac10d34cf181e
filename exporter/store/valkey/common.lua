-- This file is in front of every script. KEYS[1] is the store's `meta`. All keys of the store have the same prefix, so
-- they are in the same slot of a cluster:
--   meta           hash  id, secret, labels, version, partitions; `created`: the start of the counters; `commits`; `tasks`:
--                        the last id; `bytes` of the quarantine; `judged_by`: the fold settings; `torn`: commits were lost;
--                        `loading`: the id of an unfinished load
--   ledgers        hash  the labels of each label set -> its number; 0 is the fleet
--   ledger:N       hash  the values of label set N
--   seen           set   the label values that have series of their own
--   tasks, places  hash  the record and the info of each task
--   due            zset  when a sweep checks each task
--   state:RANK     zset  the tasks in a state
--   sources        zset  the tasks by their sources
--   held, bodies   hash  the info and the bytes of each body in the quarantine
--   last           zset  the bodies by last arrival
--   done           hash  the last commit of each exporter
--   probed, mark         test values
-- Stored names of earlier versions: `ledgers` (label sets), `judged_by`, `held`, `places`, `torn`. Keys that only earlier
-- versions write: `changed`, `forgotten`, `posted`, and the fields `last`, `floor`, `moved` of meta.
local key_prefix = string.match(KEYS[1], '^(.*:)meta$')

local function key(name)
  return key_prefix .. name
end

-- The server's time in microseconds.
local function micros()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Every answer begins with a status, the number of commits, and the server's time.
local function answer(status, ...)
  return {status, tonumber(redis.call('HGET', KEYS[1], 'commits') or 0), micros(), ...}
end

-- Checks that this is the store that the exporter knows. Returns why not, or nil.
-- ARGV[1] is the id of the exporter's store. ARGV[2] has the number of commits that the exporter has seen, its own id,
-- and the number of its last commit. The store may only be newer than that. The last commit is compared, too: after the
-- store went back to an older state, commits of others may have raised the number of commits again.
local function check_store()
  local id, commits, torn = unpack(redis.call('HMGET', KEYS[1], 'id', 'commits', 'torn'))
  if id ~= ARGV[1] then
    return id and 'other' or 'empty'
  end
  local seen, client, last = string.match(ARGV[2], '^(%d+) (%S+) (%d+)$')
  -- The entry of a client is deleted after an hour without a commit: then there is nothing to compare.
  local done = string.match(redis.call('HGET', key('done'), client) or last, '^%d+')
  if torn or tonumber(commits) < tonumber(seen) or tonumber(done) < tonumber(last) then
    return 'older'
  end
  return nil
end

-- Appends the fields of a hash to `found`. Reads many with each call, since a call costs more than what it reads; not
-- all together, since Lua limits the number of arguments.
local function read_fields(hash, names, found)
  for first = 1, #names, 1000 do
    local some = redis.call('HMGET', hash, unpack(names, first, math.min(first + 999, #names)))
    for index, value in ipairs(some) do
      found[#found + 1] = value
    end
  end
  return found
end

-- A task's info is stored in addition to its record: "version rank label_set id sources".
local function parse_info(text)
  if not text then
    return nil
  end
  local version, rank, label_set, id, sources = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  return {
    version = tonumber(version), rank = tonumber(rank), label_set = tonumber(label_set), id = tonumber(id),
    sources = sources,
  }
end

local function read_info(name)
  return parse_info(redis.call('HGET', key('places'), name))
end

-- Returns the records of tasks and their infos; false for a task that does not exist.
local function read_tasks(names)
  local infos = read_fields(key('places'), names, {})
  for index, text in ipairs(infos) do
    infos[index] = parse_info(text) or false
  end
  return read_fields(key('tasks'), names, {}), infos
end

-- Returns records as lines; an empty line for a task that does not exist.
local function join_lines(found)
  for index, record in ipairs(found) do
    found[index] = record or ''
  end
  return table.concat(found, '\n')
end

-- Returns the versions of tasks; 0 for a task that does not exist.
local function versions_of(infos)
  local found = {}
  for index, info in ipairs(infos) do
    found[index] = info and info.version or 0
  end
  return found
end

-- Returns the fields of a label set as a JSON array of names and values.
local function label_set_json(number)
  return cjson.encode(redis.call('HGETALL', key('ledger:' .. number)))
end

-- Adds a task to the indexes by state and by sources.
local function add_to_indexes(name, info)
  -- Rank 4 means no state.
  if info.rank < 4 then
    -- The order of the score is label set, then age. So the tasks of a label set are a range, and can be counted fast.
    local score = string.format('%.0f', info.label_set * 4294967296 + info.id)
    redis.call('ZADD', key('state:' .. info.rank), score, name)
  end
  if info.sources ~= '' then
    redis.call('ZADD', key('sources'), 0, info.sources .. ' ' .. name)
  end
end

-- Writes a task's record, its info, and when it is due.
local function write_task(name, record, due, version, info)
  local text = string.format('%.0f %d %d %.0f %s', version, info.rank, info.label_set, info.id, info.sources)
  redis.call('HSET', key('tasks'), name, record)
  redis.call('HSET', key('places'), name, text)
  redis.call('ZADD', key('due'), due, name)
end

-- Returns the keys of the tasks with these sources. An entry of the index is "sources name", so they are the range from
-- "sources " to "sources!", the next character after a space.
local function tasks_with_sources(sources)
  local names = redis.call('ZRANGEBYLEX', key('sources'), '[' .. sources .. ' ', '(' .. sources .. '!')
  for index, member in ipairs(names) do
    names[index] = string.sub(member, #sources + 2)
  end
  return names
end

-- ARGV[3...]: how many tasks at most; the commit since which tasks are asked for, or nothing, and rank and score
-- that ended what was shown then; the commit since which ledgers are asked for, and how many are known. A commit is
-- "number client its-number". Answers the last commit, rank and score that end what is shown, and how many tasks
-- there are; whether the tasks are all that are shown, their ranks and scores, they themselves as lines, the ids of
-- those not shown any more; the fleet's ledger, numbers of all ledgers if there are more, of each that changed its
-- number, itself, and how many tasks it has in each state; and how many bodies are held.
local most, since, ledgers_since, ledgers_known = tonumber(ARGV[3]), ARGV[4], ARGV[7], tonumber(ARGV[8])
local commits, last, floor = unpack(redis.call('HMGET', KEYS[1], 'commits', 'last', 'floor'))
if not last or string.match(last, '^%d+') ~= commits then
  last = ''
end

-- How many commits there were at that one, if all that changed since is told. The store may have been older in
-- between: then who made that commit has made less than that by now.
local function told_since(commit)
  local number, client, own = string.match(commit, '^(%d+) (%S+) (%d+)$')
  if not number or last == '' or tonumber(number) < tonumber(floor) then
    return nil
  end
  local known = commit == last and own or redis.call('HGET', key('done'), client)
  return known and tonumber(string.match(known, '^%d+')) >= tonumber(own) and number or nil
end

local sizes, total = {}, 0
for rank = 0, 3 do
  sizes[rank] = redis.call('ZCARD', key('state:' .. rank))
  total = total + sizes[rank]
end

-- The place of the last one that is shown.
local function ending()
  local left = most
  if total <= most then
    return 4, 0
  end
  for rank = 0, 3 do
    if left > 0 and left <= sizes[rank] then
      return rank, tonumber(redis.call('ZRANGE', key('state:' .. rank), left - 1, left - 1, 'WITHSCORES')[2])
    end
    left = left - sizes[rank]
  end
  return -1, 0
end

local names, at, gone = {}, {}, {}

local function add(name, rank, score)
  names[#names + 1], at[#at + 1] = name, rank .. ' ' .. score
end

local function add_between(after_rank, after_score, end_rank, end_score)
  for rank = math.max(after_rank, 0), math.min(end_rank, 3) do
    local low = rank == after_rank and string.format('(%.0f', after_score) or '-inf'
    local high = rank == end_rank and string.format('%.0f', end_score) or '+inf'
    local found = redis.call('ZRANGEBYSCORE', key('state:' .. rank), low, high, 'WITHSCORES')
    for index = 1, #found, 2 do
      add(found[index], rank, found[index + 1])
    end
  end
end

local function add_changed(low, end_rank, end_score)
  local changed = redis.call('ZRANGEBYSCORE', key('changed'), low, '+inf')
  for index, text in ipairs(fields(key('places'), changed, {})) do
    local known = parsed(text)
    local score = known.ledger * 4294967296 + known.id
    if known.rank < 4 and (known.rank < end_rank or (known.rank == end_rank and score <= end_score)) then
      add(changed[index], known.rank, string.format('%.0f', score))
    else
      gone[#gone + 1] = string.format('%.0f', known.id)
    end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('forgotten'), low, '+inf')) do
    gone[#gone + 1] = id
  end
end

local end_rank, end_score = ending()
local told = told_since(since)
local is_whole = not told or redis.call('ZCOUNT', key('changed'), '(' .. told, '+inf') > most
if is_whole then
  add_between(-1, 0, end_rank, end_score)
else
  add_between(tonumber(ARGV[5]), tonumber(ARGV[6]), end_rank, end_score)
  add_changed('(' .. told, end_rank, end_score)
end

local rows, numbers = {}, redis.call('HLEN', key('ledgers')) ~= ledgers_known and redis.call('HGETALL', key('ledgers'))
local ledgers_told = told_since(ledgers_since)
local posted = ledgers_told and redis.call('ZRANGEBYSCORE', key('posted'), '(' .. ledgers_told, '+inf')
  or redis.call('HVALS', key('ledgers'))
for _, number in ipairs(posted) do
  if number ~= '0' then
    local row = {tonumber(number), ledger(number)}
    local low = string.format('%.0f', number * 4294967296)
    local high = string.format('(%.0f', (number + 1) * 4294967296)
    for rank = 0, 3 do
      row[rank + 3] = sizes[rank] > 0 and redis.call('ZCOUNT', key('state:' .. rank), low, high) or 0
    end
    rows[#rows + 1] = row
  end
end
return answer(
  'ok', last, end_rank, string.format('%.0f', end_score), total, is_whole and 1 or 0, table.concat(at, ' '),
  table.concat(fields(key('tasks'), names, {}), '\n'), table.concat(gone, ' '), ledger(0), numbers or {}, rows,
  redis.call('HLEN', key('held'))
)

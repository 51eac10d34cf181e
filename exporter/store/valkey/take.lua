-- ARGV: a move, for how many seconds what arrives may stay untouched, and a page of it; the rest: bodies. To take a
-- page again does no harm. What was cut off goes away by itself.
if redis.call('HGET', KEYS[1], 'origin') ~= ARGV[1] then
  return answer('gone')
end
local page = cmsgpack.unpack(ARGV[3])
for _, ledger in ipairs(page.ledgers) do
  local labels, number, values = unpack(ledger)
  redis.call('HSET', key('ledgers'), labels, number)
  for _, value in ipairs(values) do
    redis.call('HSET', key('ledger:' .. number), value[1], value[2])
  end
end
for _, mark in ipairs(page.seen) do
  redis.call('SADD', key('seen'), mark)
end
for _, row in ipairs(page.rows) do
  local name, record, due, id, rank, ledger, sources = unpack(row)
  local known = {rank = rank, ledger = ledger, id = id, sources = sources}
  enter(name, known)
  keep(name, record, due, 1, known)
end
for index, held in ipairs(page.held) do
  local digest, facts = unpack(held)
  redis.call('HSET', key('held'), digest, cmsgpack.pack(facts))
  redis.call('HSET', key('bodies'), digest, ARGV[3 + index])
  redis.call('ZADD', key('last'), string.format('%.17g', facts.last), digest)
end
redis.call('HSET', KEYS[1], 'bytes', page.bytes)
for _, name in ipairs(names(at)) do
  redis.call('EXPIRE', name, ARGV[2])
end
return answer('ok')

-- ARGV[3...]: how many at most, a reason or nothing, the beginning of digests, first arrival and digest to begin
-- after. Answers of each body: digest, reason, itself, source, count, first and last arrival.
local most, reason, prefix, first, after = tonumber(ARGV[3]), ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local found, held = {}, redis.call('HGETALL', key('held'))
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
for index = 1, math.min(#found, most) do
  local facts = found[index]
  page[index] = {
    facts.digest, facts.reason, redis.call('HGET', key('bodies'), facts.digest), facts.source, facts.count,
    string.format('%.17g', facts.first), string.format('%.17g', facts.last),
  }
end
return answer('ok', page)

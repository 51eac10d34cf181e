-- The common part of the wrk scripts: send a number of requests, or as many as the time allows, and print the
-- result as one line of JSON.

local ffi = require("ffi")
ffi.cdef [[
    struct moment { long seconds; long nanoseconds; };
    int clock_gettime(int clock, struct moment *moment);
    int kill(int process, int signal);
    int getpid(void);
]]
local WALL, MONOTONIC, INTERRUPT = 0, 1, 2

local outcome = {}
local threads = {}
local verified, left

local function read(clock)
    local moment = ffi.new("struct moment")
    ffi.C.clock_gettime(clock, moment)
    return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

-- The time of day, seconds.
function outcome.now()
    return read(WALL)
end

-- Call `make` for every request until `count` requests are sent; 0: without a limit.
function outcome.send(count, make)
    answered, begun, ended = 0, 0, 0
    left = count > 0 and count or math.huge
    if count > 0 then
        response = function()
            answered = answered + 1
            if answered == count then
                ended = read(MONOTONIC)
                ffi.C.kill(ffi.C.getpid(), INTERRUPT)  -- end the run now, not after its full time
            end
        end
    end
    request = function()
        if not verified then
            verified = true  -- wrk calls this once to check the request and does not send it
            return "GET / HTTP/1.1\r\n\r\n"
        end
        if left <= 0 then
            return ""  -- wrk sends nothing and waits
        end
        if begun == 0 then
            begun = read(MONOTONIC)
        end
        left = left - 1
        return make()
    end
end

-- The head of a request with a body of that length.
function outcome.head(path, type, length)
    return "POST " .. path .. " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
        .. "\r\nContent-Type: " .. type .. "\r\nContent-Length: " .. length .. "\r\n\r\n"
end

function setup(thread)
    threads[#threads + 1] = thread
end

function done(summary, latency, requests)
    local errors = summary.errors
    local took = summary.duration / 1e6
    if threads[1]:get("ended") > 0 then
        took = threads[1]:get("ended") - threads[1]:get("begun")
    end
    io.write(string.format(
        '{"answered": %d, "rejected": %d, "failed": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f}\n',
        summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
        took, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end

return outcome

-- Sends TaskStart callbacks, each of another task, and prints what became of them as one line of JSON.
-- Arguments: the number of the first task; how many to send, 0 for as many as the time allows; over how
-- many destinations they spread.
-- Everything but the task's number and the time is put together once: making a request costs a concatenation.

local ffi = require("ffi")
ffi.cdef [[
    struct moment { long seconds; long nanoseconds; };
    int clock_gettime(int clock, struct moment *moment);
    int kill(int process, int signal);
    int getpid(void);
]]
local MONOTONIC, INTERRUPT = 1, 2
local SECOND_IN_REQUESTS = 500  -- how often the time in the bodies is brought up to date

local body = {
    [[{"appid":1250000001,"event_type":314,"interface":"general_callback","product_name":"pullpush",]]
        .. [["source_urls":"[\"http://origin.example.com/vod/]],
    [[.m3u8?sign=s3cr3t\"]\n","stream_id":"room]],
    [[","task_id":"]],
    [[","to_url":"rtmp://]],
    [[.livepush.myqcloud.com/live/room]],
    [[?txSecret=0123456789abcdef0123456789abcdef&txTime=6A000000","callback_event":"TaskStart","event_time":"]],
    [[","msg":"{\"task_start_time\":]],
    [[000}"}]],
}

local threads = {}
local task, limit, hosts, verified, head, tail

local function now()
    local moment = ffi.new("struct moment")
    ffi.C.clock_gettime(MONOTONIC, moment)
    return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

local function put_together()
    local seconds = os.time()
    tail = body[6] .. seconds .. body[7] .. seconds .. body[8]
end

local function one()
    local host = 5000 + task % hosts
    return head .. task .. body[2] .. task .. body[3] .. task .. body[4] .. host .. body[5] .. task .. tail
end

function setup(thread)
    threads[#threads + 1] = thread
end

function init(args)
    task, hosts = tonumber(args[1]), tonumber(args[3])
    local count = tonumber(args[2])
    limit = count > 0 and task + count or math.huge
    answered, begun, ended = 0, 0, 0
    head = ""
    put_together()
    head = "POST " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
        .. "\r\nContent-Type: application/json\r\nContent-Length: " .. #(body[1] .. one()) .. "\r\n\r\n" .. body[1]
    if count > 0 then
        response = function()
            answered = answered + 1
            if answered == count then
                ended = now()
                ffi.C.kill(ffi.C.getpid(), INTERRUPT)  -- ends the run, which else lasts its full time
            end
        end
    end
end

function request()
    if not verified then
        verified = true  -- wrk looks at one request and does not send it
        return one()
    end
    if task >= limit then
        return ""  -- sends nothing, and waits
    end
    if begun == 0 then
        begun = now()
    end
    task = task + 1
    if task % SECOND_IN_REQUESTS == 0 then
        put_together()
    end
    return one()
end

function done(summary, latency, requests)
    local errors = summary.errors
    local took = summary.duration / 1e6
    if threads[1]:get("ended") > 0 then
        took = threads[1]:get("ended") - threads[1]:get("begun")
    end
    io.write(string.format(
        '{"answered": %d, "refused": %d, "broken": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f}\n',
        summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
        took, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end

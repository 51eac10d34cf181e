-- Pushes two metrics to a Pushgateway, as a client library would after every callback: one group a destination.
-- Arguments: the number to begin to count at; how many to send, 0 for as many as the time allows; over how
-- many destinations they spread.

local outcome = require("outcome")

local body = {
    "# TYPE css_relay_tasks_started_total counter\ncss_relay_tasks_started_total ",
    "\n# TYPE css_relay_last_callback_timestamp_seconds gauge\ncss_relay_last_callback_timestamp_seconds ",
}

function init(args)
    local number, hosts = tonumber(args[1]), tonumber(args[3])
    outcome.send(tonumber(args[2]), function()
        number = number + 1
        local text = body[1] .. number .. body[2] .. os.time() .. "\n"
        local path = wrk.path .. "/to_host/" .. 5000 + number % hosts .. ".livepush.myqcloud.com"
        return outcome.head(path, "text/plain; version=0.0.4", #text) .. text
    end)
end

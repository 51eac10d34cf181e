// The k6 script of the open loop: it sends requests at a fixed rate, whether or not earlier ones were answered.
// It has 100 connections. If none is free, a request is dropped and counted. The bodies are those of the wrk scripts.

import http from "k6/http";
import exec from "k6/execution";
import { Counter } from "k6/metrics";

const CONNECTIONS = 100;
const HANG = "600s";
const urls = __ENV.URLS.split(" ");
const first = Number(__ENV.FIRST);
const destinations = Number(__ENV.DESTINATIONS);
const rejected = new Counter("rejected");

export const options = {
  scenarios: {
    arrivals: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE),
      timeUnit: "1s",
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: CONNECTIONS,
      maxVUs: CONNECTIONS,
      gracefulStop: HANG,  // wait for every answer at the end
    },
  },
  discardResponseBodies: true,
  summaryTrendStats: ["p(50)", "p(95)", "p(99)", "max"],
};

function callback(url, number, host) {
  const seconds = Math.floor(Date.now() / 1000);
  const body = JSON.stringify({
    appid: 1250000001,
    event_type: 314,
    interface: "general_callback",
    product_name: "pullpush",
    source_urls: `["http://origin.example.com/vod/${number}.m3u8?sign=s3cr3t"]\n`,
    stream_id: `room${number}`,
    task_id: `${number}`,
    to_url: `rtmp://${host}/live/room${number}?txSecret=0123456789abcdef0123456789abcdef&txTime=6A000000`,
    callback_event: "TaskStart",
    event_time: `${seconds}`,
    msg: `{"task_start_time":${seconds}000}`,
  });
  return http.post(url, body, { headers: { "Content-Type": "application/json" }, timeout: HANG });
}

function push(url, number, host) {
  const body =
    `# TYPE css_relay_tasks_started_total counter\ncss_relay_tasks_started_total ${number}\n` +
    "# TYPE css_relay_last_callback_timestamp_seconds gauge\n" +
    `css_relay_last_callback_timestamp_seconds ${Math.floor(Date.now() / 1000)}\n`;
  return http.post(`${url}/to_host/${host}`, body, { headers: { "Content-Type": "text/plain; version=0.0.4" }, timeout: HANG });
}

const one = { callbacks: callback, pushes: push }[__ENV.SCRIPT];

export default function () {
  const number = exec.scenario.iterationInTest;
  const host = `${5000 + (number % destinations)}.livepush.myqcloud.com`;
  const answer = one(urls[number % urls.length], first + number, host);
  if (answer.status !== 200) {
    rejected.add(1);
  }
}

export function handleSummary(data) {
  const counted = (name) => (data.metrics[name] ? data.metrics[name].values.count : 0);
  const times = data.metrics.http_req_duration.values;
  const outcome = {
    answered: counted("http_reqs"),
    rejected: counted("rejected"),
    dropped: counted("dropped_iterations"),
    p50_ms: times["p(50)"],
    p95_ms: times["p(95)"],
    p99_ms: times["p(99)"],
    max_ms: times["max"],
  };
  return { stdout: `${JSON.stringify(outcome)}\n` };
}

#!/usr/bin/env bash
# @fastify/http-proxy sends a GET that was answered 503 ten more times, and the client sees one 503.
#
# Guess: a proxy passes a 503 on. At most it waits for the time in Retry-After and retries once;
# without that field it has no reason to. None of the fourteen proxies on the book's page about
# proxies repeats a request because of its status.
#
# Seen (@fastify/http-proxy 11.6.3 with fastify 5.12.8, defaults, Node 20.20.2): the origin gets GET
# 11 times, with and without Retry-After, on the same kept connection and within about a second;
# "Retry-After: 1" makes it faster, not slower. POST is sent once. The default is `maxRetriesOn503:
# 10` of @fastify/reply-from, for each proxied request.
#
# Why it matters here: 503 is the answer to a request whose handler ran into request-timeout or a
# stop's deadline, so the slowest requests of an overloaded server are run eleven times, and
# counters and logs of the application show eleven. `replyOptions: { maxRetriesOn503: 0 }` turns it
# off.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
npm init --yes > /dev/null
npm install --silent --no-audit --no-fund fastify@5.12.8 @fastify/http-proxy@11.6.3

cat > run.js <<'JS'
const http = require('http')
const seen = {}
const origin = http.createServer((request, response) => {
  const key = `${request.method} ${request.url}`
  seen[key] = (seen[key] || 0) + 1
  if (request.url === '/later') response.setHeader('Retry-After', '1')
  request.resume()
  response.statusCode = 503
  response.end('no')
})
const ask = (port, method, path) => new Promise((resolve, reject) => {
  const request = http.request({ port, method, path, host: '127.0.0.1', agent: false }, (response) => {
    response.resume()
    response.on('end', () => resolve(response.statusCode))
  })
  request.on('error', reject)
  request.end(method === 'POST' ? 'abc' : undefined)
})
const main = async () => {
  await new Promise((resolve) => origin.listen(0, '127.0.0.1', resolve))
  const fastify = require('fastify')()
  fastify.register(require('@fastify/http-proxy'), { upstream: `http://127.0.0.1:${origin.address().port}` })
  await fastify.listen({ port: 0, host: '127.0.0.1' })
  const { port } = fastify.server.address()
  let changed = false
  for (const [method, path, times] of [['GET', '/now', 11], ['GET', '/later', 11], ['POST', '/now', 1]]) {
    const began = Date.now()
    const status = await ask(port, method, path)
    const asked = seen[`${method} ${path}`]
    console.log(`${method} ${path}: the client got ${status} after ${Date.now() - began} ms, the origin was asked ${asked} times`)
    changed ||= status !== 503 || asked !== times
  }
  if (changed) console.log('this has changed')
  process.exit(changed ? 1 : 0)
}
setTimeout(() => process.exit(2), 60000).unref()
main()
JS
node --version
timeout 90 node run.js

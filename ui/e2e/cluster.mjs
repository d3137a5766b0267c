// Real nodes for the tests: started, seeded through their API, stopped by process id.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const PROGRAM = process.env.MAXINE_BIN ?? new URL('../../target/debug/maxine', import.meta.url).pathname;
const START_MS = 90_000;

export async function startCluster({ port, nodes = 3, samples = false, backend = 'raft' }) {
  const dir = mkdtempSync(join(tmpdir(), 'maxine-e2e-'));
  const args = ['dev', '--nodes', String(nodes), '--port', String(port), '--data-dir', dir, '--output', 'json'];
  if (backend !== 'raft') args.push('--backend', backend);
  if (!samples) args.push('--no-samples');
  const child = spawn(PROGRAM, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: dir,
    env: { ...process.env, MAXINE_ACTIVE_HEALTH_CHECKS_ENABLED: 'true' },
  });
  const found = [];
  let errors = '';
  child.stderr.on('data', (text) => (errors += text));
  createInterface({ input: child.stdout }).on('line', (line) => found.push(JSON.parse(line)));
  await until(() => {
    if (child.exitCode !== null) throw new Error(`maxine dev ended:\n${errors}`);
    return found.length === nodes && /admin password[^:]*: \S+/.test(errors);
  }, START_MS, 'the cluster to start');
  const password = /admin password[^:]*: (\S+)/.exec(errors)[1];
  const cluster = new Cluster(child, dir, found, password);
  await cluster.signIn();
  return cluster;
}

class Cluster {
  upstreams = [];
  constructor(child, dir, nodes, password) {
    Object.assign(this, { child, dir, nodes, password, token: null });
  }

  async signIn() {
    const { access_token } = await this.call('POST', '/session', { user: 'admin', password: this.password });
    this.token = access_token;
  }

  async call(method, route, body, { node = 0, headers = {}, okay = true } = {}) {
    const response = await fetch(`${this.nodes[node].http}${route.startsWith('/api/') ? '' : '/api/v1'}${route}`, {
      method,
      redirect: 'manual',
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(this.token ? { authorization: `Bearer ${this.token}` } : {}),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(20_000),
    });
    const text = await response.text();
    if (okay && response.status >= 400) throw new Error(`${method} ${route}: ${response.status} ${text}`);
    return text && response.headers.get('content-type')?.includes('json') ? JSON.parse(text) : null;
  }

  async register(items) {
    for (let at = 0; at < items.length; at += 1_000) {
      const { results } = await this.call('POST', '/registrations', { items: items.slice(at, at + 1_000) });
      const wrong = results.find((r) => r.problem);
      if (wrong) throw new Error(JSON.stringify(wrong.problem));
    }
  }

  addUser(name, role) {
    return this.call('PUT', `/users/${name}`, { role, password: `${name}-has-a-long-password` });
  }

  /** An upstream whose health can be switched, and that counts its calls. With `letGo`, it answers after that promise. */
  async upstream(name, { letGo = null } = {}) {
    const state = { healthy: true, delayMs: 3, failing: 0, calls: 0 };
    const server = createServer((request, response) => {
      const wait = letGo ?? Promise.resolve();
      setTimeout(async () => {
        await wait;
        const probed = request.url.startsWith('/healthz');
        if (!probed) state.calls += 1;
        const bad = probed ? !state.healthy : Math.random() < state.failing;
        response.writeHead(bad ? 500 : 200, { 'content-type': 'text/plain' });
        response.end(bad ? 'the database is not reachable' : `${name} is well`);
      }, state.delayMs * (0.5 + Math.random()));
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const upstream = { state, name, server, address: `http://127.0.0.1:${server.address().port}` };
    this.upstreams.push(upstream);
    return upstream;
  }

  async leader() {
    for (let at = 0; at < this.nodes.length; at += 1) {
      if (this.nodes[at].dead) continue;
      const status = await this.call('GET', '/cluster/status', undefined, { node: at }).catch(() => null);
      if (status?.leadership.is_leader) return at;
    }
    return -1;
  }

  kill(at) {
    process.kill(this.nodes[at].pid, 'SIGKILL');
    this.nodes[at].dead = true;
  }

  /** Brings dead nodes back, as 'maxine dev --restart' does. */
  async revive() {
    const before = this.nodes.filter((n) => n.dead);
    process.kill(this.child.pid, 'SIGUSR1');
    for (const node of before) {
      await until(() => fetch(`${node.http}/api/v1/ready`).then((r) => r.ok, () => false), 30_000, 'a node to come back');
      node.dead = false;
      // It has a new process id, which only the parent knows.
      node.pid = childOf(this.child.pid, `node-${node.id}`);
    }
  }

  /** Stops Redis from answering, as a machine that hangs does. */
  pauseRedis() {
    process.kill(childOf(this.child.pid, 'redis-server'), 'SIGSTOP');
  }

  resumeRedis() {
    process.kill(childOf(this.child.pid, 'redis-server'), 'SIGCONT');
  }

  async stop() {
    for (const { server } of this.upstreams) {
      server.closeAllConnections();
      server.close();
    }
    this.child.kill('SIGINT');
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 15_000);
    if (this.child.exitCode === null && this.child.signalCode === null) await ended;
    clearTimeout(timer);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** The child of `parent` whose command line or environment has `text`. */
function childOf(parent, text) {
  const children = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8').trim().split(' ');
  const has = (pid) => ['cmdline', 'environ'].some((file) => readFileSync(`/proc/${pid}/${file}`, 'utf8').includes(text));
  return Number(children.find(has));
}

const ALONE = 'e2e-lone';
const PASSWORD = 'a-password-for-the-tests';

/** A cluster of one voter, which others may join. */
export async function startLone(port) {
  const node = await serve(port, 1, [`--raft-members=1@127.0.0.1:${port + 1000}@http://127.0.0.1:${port}`]);
  const cluster = new Cluster(node.child, node.dir, [{ id: 1, http: node.http, pid: node.child.pid }], PASSWORD);
  await until(() => cluster.signIn().then(() => true, () => false), START_MS, 'the lone node to lead');
  return cluster;
}

/** A node that waits to be added. */
export async function startJoiner(port) {
  const node = await serve(port, 2, ['--raft-members=']);
  const stop = () => new Cluster(node.child, node.dir, [], PASSWORD).stop();
  return { http: node.http, peer: `127.0.0.1:${port + 1000}`, stop };
}

async function serve(port, id, more) {
  const dir = mkdtempSync(join(tmpdir(), 'maxine-e2e-'));
  const args = [
    'serve', '--mode=raft', `--node-id=${id}`, `--port=${port}`, `--data-dir=${dir}`, `--cluster-id=${ALONE}`,
    `--raft-listen=127.0.0.1:${port + 1000}`, ...more,
  ];
  const env = { ...process.env, MAXINE_ADMIN_USERNAME: 'admin', MAXINE_ADMIN_PASSWORD: PASSWORD };
  const child = spawn(PROGRAM, args, { stdio: 'ignore', cwd: dir, env });
  const http = `http://127.0.0.1:${port}`;
  await until(() => {
    if (child.exitCode !== null) throw new Error(`node ${id} ended with ${child.exitCode}`);
    return fetch(`${http}/api/actuator/health`).then((r) => r.ok, () => false);
  }, START_MS, `node ${id} to serve`);
  return { child, dir, http };
}

export async function until(what, limitMs, name) {
  const end = Date.now() + limitMs;
  for (;;) {
    const got = await what();
    if (got) return got;
    if (Date.now() > end) throw new Error(`waited ${limitMs} ms in vain for ${name}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

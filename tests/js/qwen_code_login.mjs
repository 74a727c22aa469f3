// The Qwen Code CLI's own login code, called from its package: it does what the lines of stdin say, and answers each
// with a line of JSON, `{"ok": value}` or `{"error": message}`. See tests/support/qwen_code_cli.py.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const LOGIN_SERVER = "https://chat.qwen.ai";
const { CHUNKS, LOGIN_URL } = process.env;

// The name of the file changes with every release; the name of the lock does not.
const chunk = readdirSync(CHUNKS).find((name) => readFileSync(join(CHUNKS, name), "utf8").includes('"oauth_creds.lock"'));
const { QwenOAuth2Client, SharedTokenManager } = await import(pathToFileURL(join(CHUNKS, chunk)));

const realFetch = globalThis.fetch;
globalThis.fetch = (url, options) => realFetch(String(url).replace(LOGIN_SERVER, LOGIN_URL), options);

const client = new QwenOAuth2Client();
const manager = SharedTokenManager.getInstance();
manager.setLockConfig({ attemptInterval: 5 });

async function token(force) {
  const credentials = await manager.getValidCredentials(client, force);
  return credentials.access_token;
}

const commands = {
  // As after a restart: nothing is remembered of the file.
  forget: () => manager.clearCache(),
  fresh: () => token(false),
  renew: () => token(true),
  lock: () => manager.acquireLock(manager.getLockFilePath()),
  unlock: () => manager.releaseLock(manager.getLockFilePath()),
  exit: () => process.exit(0),
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { ok: (await commands[line]()) ?? null };
  } catch (error) {
    answer = { error: String(error.message) };
  }
  console.log(JSON.stringify(answer));
}

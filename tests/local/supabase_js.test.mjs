// The real @supabase/supabase-js against the local platform. Run by test_supabase_clients.py, which sets the environment.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../supabase/package.json", import.meta.url));
const { createClient } = require("@supabase/supabase-js");

const { SUPABASE_URL, SUPABASE_ANON_KEY, SUPABASE_SERVICE_ROLE_KEY } = process.env;
const quiet = {
  auth: { persistSession: false, autoRefreshToken: false },
  realtime: { transport: class {} }, // Node 20 has no WebSocket, and the client wants one even if it is never used
};
const anon = () => createClient(SUPABASE_URL, SUPABASE_ANON_KEY, quiet);
const admin = createClient(SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY, quiet);
const password = "recado-demo";
const address = () => `js-${crypto.randomUUID()}@people.example`;

async function ok(answer) {
  const { data, error } = await answer;
  assert.ifError(error);
  return data;
}

async function signedUp() {
  const client = anon();
  const email = address();
  const { user } = await ok(client.auth.signUp({ email, password, options: { data: { name: "Ana" } } }));
  return { client, email, user };
}

test("a person signs up, in and out", async () => {
  const { client, email, user } = await signedUp();
  assert.equal(user.user_metadata.name, "Ana");

  await ok(client.auth.signOut());
  const signedIn = await ok(client.auth.signInWithPassword({ email, password }));
  const token = signedIn.session.access_token;
  const { error } = await client.auth.signOut();

  assert.equal(error, null);
  assert.equal((await client.auth.getUser(token)).error.name, "AuthSessionMissingError");
});

test("a session is refreshed and its person changed", async () => {
  const { client, user } = await signedUp();

  const refreshed = await ok(client.auth.refreshSession());
  const changed = await ok(client.auth.updateUser({ data: { language: "es" } }));
  const claims = await ok(client.auth.getClaims());

  assert.equal(refreshed.user.id, user.id);
  assert.equal(changed.user.user_metadata.language, "es");
  assert.equal(claims.claims.sub, user.id);
});

test("rows are the person's own", async () => {
  const { client: ana } = await signedUp();
  const { client: eva } = await signedUp();

  const note = await ok(ana.from("notes").insert({ body: "mine" }).select().single());
  await ok(ana.from("notes").update({ body: "still mine" }).eq("id", note.id));
  const { count } = await ana.from("notes").select("*", { count: "exact", head: true });

  assert.equal(count, 1);
  assert.deepEqual(await ok(eva.from("notes").select()), []);
  assert.equal((await eva.from("notes").insert({ body: "x", owner: note.owner })).error.code, "42501");
  assert.equal((await ok(ana.from("notes").delete().eq("id", note.id).select())).length, 1);
});

test("the secret key administers people", async () => {
  const email = address();
  const { user } = await ok(admin.auth.admin.createUser({ email, password, email_confirm: true }));

  const listed = await ok(admin.auth.admin.listUsers({ page: 1, perPage: 1 }));
  assert.equal(listed.users[0].id, user.id);
  assert.ok(listed.total >= 1 && listed.nextPage === 2);

  await ok(admin.auth.admin.updateUserById(user.id, { app_metadata: { plan: "pro" } }));
  assert.equal((await ok(admin.auth.admin.getUserById(user.id))).user.app_metadata.plan, "pro");
  await ok(admin.auth.admin.deleteUser(user.id));
  assert.equal((await anon().auth.signInWithPassword({ email, password })).error.code, "invalid_credentials");
});

test("refusals arrive as the errors the client documents", async () => {
  const { email } = await signedUp();

  assert.equal((await anon().auth.signUp({ email, password })).error.code, "user_already_exists");
  const weak = (await anon().auth.signUp({ email: address(), password: "1" })).error;
  assert.deepEqual([weak.name, weak.reasons], ["AuthWeakPasswordError", ["length"]]);
  assert.equal((await anon().auth.admin.listUsers()).error.code, "not_admin");
  assert.equal((await anon().auth.getUser("not.a.token")).error.code, "bad_jwt");
});

from tests.integration.api_client import client_of, T, S
import pytest

@pytest.fixture
async def client(database_url, redis_url, broker_url):
    async with client_of(database_url, redis_url, broker_url) as c:
        yield c

async def test_it(client):
    first = await client.post("as *written*")
    print(first)
    reply = await client.post("hello", to=first["id"], sub="bob")
    a = await client.get(T + "/comments?min_version=2")
    print(a)
    r = await client.send("PATCH", f"{T}/comments/{first['id']}", {"body": "new"}, sub="ann", headers={"If-Match": '"1"'})
    print(r)
    print(await client.send("POST", f"{T}/comments/{first['id']}/reports", {"reason": "spam", "detail": "x"}, sub="bob"))
    print(await client.send("DELETE", f"{T}/comments/{first['id']}", sub="ann"))
    print(await client.get(f"{T}/comments/{first['id']}/revisions", sub="mod", roles=("moderator",)))
    print(await client.get(T + "/events", sub="mod", roles=("moderator",)))
    print(await client.get(T))
    print(await client.send("PATCH", T, {"title": "x", "state": "closed"}, sub="mod", roles=("moderator",)))
    print(await client.get(S + "/settings", sub="mod", roles=("admin",)))
    print(await client.send("PATCH", S + "/settings", {"report_threshold": 2}, sub="mod", roles=("admin",)))
    print(await client.get(S + "/me/notifications", sub="ann"))
    for p in ("/healthz", "/readyz", "/openapi.json", "/docs", "/metrics"):
        print(p, str(await client.get(p))[:600])

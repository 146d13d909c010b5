"""The fast loop: the OpenAI-compatible door, a thin shell around `traffic`.

Moves bytes and keeps files; whatever must be decided about a request is asked of `traffic`. This
process loads no pydantic, SQLAlchemy, FastAPI or numpy: many of them run on one machine.

One request, from its bytes to the bill; each step is one file, of this room unless named otherwise:

1. `entrance` takes the client in, `connection` parses its bytes, `asked` is what they said;
2. `visit.Visit.begin` asks `traffic.desk` for all that follows, and moves the bytes: may this head
   pass (`traffic.doors`, `front`), whose key is it (`admission`), is the body one of ours
   (`requests`, `schema`), and which endpoint does it mean (`admission` again);
3. `Desk.start` reserves what it may use (`traffic.budgets`; money is leased: `purse`, `lease`),
   chooses a replica (`traffic.route`, `fleet`, `pace`, `prefixes`, `health`), or has it wait for
   its turn (`hold`, `share`);
4. `engines` sends it, over a pool of connections; `traffic.exchange` is what is known of this one
   request until it ends, and reads the answer (`stream`, `usage`); `outbox` sends it to the client;
5. `Desk.settle` puts what was used in place of what was reserved and prices it (`traffic.price`);
6. `spool` writes that down (`journal`, `segment`: so it has from step 4 on, for whoever is killed)
   and delivers it to control (`line`, then `api.internal`), where `stores.bill` counts it once.

Beside all that `pull` keeps the route table (`traffic.table`) fresh, `app` sweeps over those that
are late, and `columns` tells the other processes of this gateway (`traffic.joint`, `abreast`).
"""

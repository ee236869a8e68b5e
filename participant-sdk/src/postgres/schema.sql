-- The tables of assent's participant SDK. Every role that serves needs SELECT, INSERT, UPDATE and DELETE on them.

-- One row for each branch. It makes every call take effect once, whatever is lost, repeated or reordered on the way.
-- Texts are compared byte by byte: the order of transactions is the order of its texts, and branches A and a differ.
CREATE TABLE IF NOT EXISTS assent_barrier (
    -- Where the transaction stands in the order of all transactions, 21 hexadecimal digits; then its id.
    tx_order text COLLATE "C" NOT NULL,
    xid text COLLATE "C" NOT NULL,
    branch text COLLATE "C" NOT NULL,
    participant text COLLATE "C" NOT NULL,
    -- The coordinator that it belongs to.
    cluster text COLLATE "C" NOT NULL,
    -- Prepared: a reservation. A branch that the database itself holds prepared has its row in what is prepared.
    status text COLLATE "C" NOT NULL CHECK (status IN ('prepared', 'committed', 'rolled_back')),
    -- What was asked for and answered.
    request bytea NOT NULL,
    reply bytea NOT NULL,
    -- How long a reservation holds, and what happens then.
    ttl_ms bigint,
    class text COLLATE "C" CHECK (class IN ('cooperative', 'autonomous')),
    PRIMARY KEY (tx_order, xid, branch, participant)
);
CREATE INDEX IF NOT EXISTS assent_in_doubt ON assent_barrier (participant) WHERE status = 'prepared';

-- The first transaction of each coordinator that may still be under way: what came before has ended, and is cleared.
CREATE TABLE IF NOT EXISTS assent_horizon (
    cluster text COLLATE "C" PRIMARY KEY,
    before text COLLATE "C" NOT NULL
);

-- What branches that the database holds prepared have answered, so that it can be read while they are. Empty answers
-- have no row.
CREATE TABLE IF NOT EXISTS assent_reply (
    tx_order text COLLATE "C" NOT NULL,
    xid text COLLATE "C" NOT NULL,
    branch text COLLATE "C" NOT NULL,
    participant text COLLATE "C" NOT NULL,
    cluster text COLLATE "C" NOT NULL,
    reply bytea NOT NULL,
    PRIMARY KEY (tx_order, xid, branch, participant)
);

-- The tables of assent's participant SDK. Every user that serves needs SELECT, INSERT, UPDATE and DELETE on them.

-- One row for each branch. It makes every call take effect once, whatever is lost, repeated or reordered on the way.
-- Texts are compared byte by byte: the order of transactions is the order of its texts, and branches A and a differ.
CREATE TABLE IF NOT EXISTS assent_barrier (
    -- Where the transaction stands in the order of all transactions, 21 hexadecimal digits; then its id.
    tx_order CHAR(21) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    xid CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    branch VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    participant VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- The coordinator that it belongs to.
    cluster VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- A row of a branch of two-phase commit is written as committed, and is seen when that is true.
    status ENUM('prepared', 'committed', 'rolled_back') CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- What the initiator asked for, until phase two is done; and what it was told.
    request LONGBLOB NOT NULL,
    reply LONGBLOB NOT NULL,
    -- How long a reservation holds, and what happens then.
    ttl_ms BIGINT,
    class ENUM('cooperative', 'autonomous') CHARACTER SET ascii COLLATE ascii_bin,
    PRIMARY KEY (tx_order, xid, branch, participant),
    -- What is in doubt is looked for at every start.
    KEY assent_in_doubt (status, participant)
) ENGINE = InnoDB;

-- Transactions of a cluster before this one have ended. Their rows are deleted, and calls for them are late.
CREATE TABLE IF NOT EXISTS assent_horizon (
    cluster VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    `before` CHAR(21) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
) ENGINE = InnoDB;

"""The versions of the SQLite store, in order; a release only ever adds one at the end."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE ledgers (
            id INTEGER PRIMARY KEY,
            labels TEXT NOT NULL UNIQUE,   -- JSON array of label values
            record TEXT NOT NULL
        )""",
        """CREATE TABLE tasks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            key TEXT NOT NULL UNIQUE,
            sources INTEGER,               -- digest of the sources
            state INTEGER NOT NULL,        -- rank: those shown first have the lowest
            ledger INTEGER,                -- of its label set
            due REAL NOT NULL,             -- when a sweep looks at it next, UNIX seconds
            record TEXT NOT NULL
        )""",
        "CREATE INDEX tasks_by_due ON tasks (due)",
        "CREATE INDEX tasks_by_state ON tasks (state, ledger)",
        """CREATE TABLE quarantine (
            digest BLOB PRIMARY KEY,
            reason TEXT NOT NULL,
            body BLOB NOT NULL,
            source TEXT NOT NULL,
            count INTEGER NOT NULL,
            first REAL NOT NULL,           -- UNIX seconds
            last REAL NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX quarantine_by_last ON quarantine (last)",
    ),
    (
        # How much there is, and what is to go, are told from the index alone, without reading a body.
        "ALTER TABLE quarantine ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
        "UPDATE quarantine SET size = length(body)",
        "DROP INDEX quarantine_by_last",
        "CREATE INDEX quarantine_by_last ON quarantine (last, digest, size)",
    ),
    (
        # The fleet's counts the commits that changed tasks: a process learns whether others have changed any.
        # Every commit writes its row anyway; a place of its own would be a page more each time.
        "ALTER TABLE ledgers ADD COLUMN changes INTEGER NOT NULL DEFAULT 0",
    ),
    # A scrape reads all that it shows: nobody asks what has changed since the last one.
    ("ALTER TABLE ledgers DROP COLUMN changes",),
)

-- The tables of commit 3a29cc6, made by make_tables_before_schema_version.py.
-- What `plan` of that commit says of them:
--
-- item: 0 new, 0 changed, 0 deleted, 9 unchanged
--     set 1 (live, fake/words): 0 rows, 0 chunks pending, 0 reusable, 0 to encode
--     set 2 (building, fake/other): 5 rows, 5 chunks pending, 0 reusable, 5 to encode
-- shoe: 0 new, 0 changed, 0 deleted, 5 unchanged
--     set 1 (live, fake/words): 0 rows, 0 chunks pending, 0 reusable, 0 to encode
-- lamp: 0 new, 1 changed, 0 deleted, 4 unchanged
--     set 1 (live, fake/words): 0 rows, 0 chunks pending, 0 reusable, 0 to encode
-- forced: 0 new, 0 changed, 0 deleted, 6 unchanged
--     set 1 (live, fake/words): 0 rows, 0 chunks pending, 0 reusable, 0 to encode
-- forced, with force: 0 new, 0 changed, 0 deleted, 6 unchanged
--     set 1 (live, fake/words): 4 rows, 4 chunks pending, 0 reusable, 4 to encode
--
-- PostgreSQL database dump
--


-- Dumped from database version 18.4
-- Dumped by pg_dump version 18.4

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: analytics_features; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA analytics_features;


--
-- Name: staging; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA staging;


--
-- Name: with_often(tsvector); Type: FUNCTION; Schema: analytics_features; Owner: -
--

CREATE FUNCTION analytics_features.with_often(tsvector) RETURNS tsvector
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN ($1 || COALESCE((SELECT array_to_tsvector(array_agg(((unnest.lexeme || ' '::text) || times.times))) AS array_to_tsvector FROM (unnest($1) unnest(lexeme, positions, weights) CROSS JOIN unnest('{3,4,6,8}'::smallint[]) times(times)) WHERE (cardinality(unnest.positions) >= times.times)), ''::tsvector));


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: entities; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.entities (
    entity text NOT NULL,
    definition jsonb NOT NULL,
    definition_hash text NOT NULL,
    id_type text NOT NULL,
    partition_scheme text NOT NULL,
    publish_held boolean DEFAULT false NOT NULL,
    last_pass_at timestamp with time zone,
    documents bigint,
    average_tokens double precision,
    counted_at timestamp with time zone
);


--
-- Name: forced_texts; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.forced_texts (
    id bigint NOT NULL,
    chunk integer NOT NULL,
    partition_key text NOT NULL,
    fingerprint bigint NOT NULL,
    text text,
    parts text[],
    weights double precision[],
    text_hash bytea,
    tokens integer NOT NULL,
    part_tokens integer[],
    source_changed_at timestamp with time zone,
    serialised_at timestamp with time zone DEFAULT now() NOT NULL,
    terms tsvector GENERATED ALWAYS AS (analytics_features.with_often(to_tsvector('english'::regconfig, translate("left"(text, 100000), '<>'::text, '  '::text)))) STORED
);


--
-- Name: forced_vectors_1; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.forced_vectors_1 (
    id bigint NOT NULL,
    chunk integer NOT NULL,
    text text NOT NULL,
    text_hash bytea NOT NULL,
    embedding public.vector(8) NOT NULL,
    run_id text NOT NULL,
    reused_from text,
    embedded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: item_texts; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.item_texts (
    id bigint NOT NULL,
    chunk integer NOT NULL,
    partition_key text NOT NULL,
    fingerprint bigint NOT NULL,
    text text,
    parts text[],
    weights double precision[],
    text_hash bytea,
    tokens integer NOT NULL,
    part_tokens integer[],
    source_changed_at timestamp with time zone,
    serialised_at timestamp with time zone DEFAULT now() NOT NULL,
    stock integer,
    terms tsvector GENERATED ALWAYS AS (analytics_features.with_often(to_tsvector('english'::regconfig, translate("left"(text, 100000), '<>'::text, '  '::text)))) STORED
);


--
-- Name: item_vectors_1; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.item_vectors_1 (
    id bigint NOT NULL,
    chunk integer NOT NULL,
    text text NOT NULL,
    text_hash bytea NOT NULL,
    embedding public.vector(8) NOT NULL,
    run_id text NOT NULL,
    reused_from text,
    embedded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    stock integer
);


--
-- Name: lamp_texts; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.lamp_texts (
    id uuid NOT NULL,
    chunk integer NOT NULL,
    partition_key text NOT NULL,
    fingerprint bigint NOT NULL,
    text text,
    parts text[],
    weights double precision[],
    text_hash bytea,
    tokens integer NOT NULL,
    part_tokens integer[],
    source_changed_at timestamp with time zone,
    serialised_at timestamp with time zone DEFAULT now() NOT NULL,
    terms tsvector GENERATED ALWAYS AS (analytics_features.with_often(to_tsvector('english'::regconfig, translate("left"(text, 100000), '<>'::text, '  '::text)))) STORED
);


--
-- Name: lamp_vectors_1; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.lamp_vectors_1 (
    id uuid NOT NULL,
    chunk integer NOT NULL,
    text text NOT NULL,
    text_hash bytea NOT NULL,
    embedding public.halfvec(8) NOT NULL,
    run_id text NOT NULL,
    reused_from text,
    embedded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: quarantine; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.quarantine (
    entity text NOT NULL,
    id text NOT NULL,
    chunk integer NOT NULL,
    vector_set integer DEFAULT 0 NOT NULL,
    stage text NOT NULL,
    error text NOT NULL,
    attempts integer DEFAULT 1 NOT NULL,
    text_hash bytea,
    first_seen timestamp with time zone DEFAULT now() NOT NULL,
    last_seen timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT quarantine_stage_check CHECK ((stage = ANY (ARRAY['partition'::text, 'render'::text, 'encode'::text])))
);


--
-- Name: shoe_texts; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.shoe_texts (
    id text NOT NULL,
    chunk integer NOT NULL,
    partition_key text NOT NULL,
    fingerprint bigint NOT NULL,
    text text,
    parts text[],
    weights double precision[],
    text_hash bytea,
    tokens integer NOT NULL,
    part_tokens integer[],
    source_changed_at timestamp with time zone,
    serialised_at timestamp with time zone DEFAULT now() NOT NULL,
    terms tsvector GENERATED ALWAYS AS (analytics_features.with_often(to_tsvector('english'::regconfig, translate("left"(text, 100000), '<>'::text, '  '::text)))) STORED
);


--
-- Name: shoe_vectors_1; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.shoe_vectors_1 (
    id text NOT NULL,
    chunk integer NOT NULL,
    text text NOT NULL,
    text_hash bytea NOT NULL,
    embedding public.vector(8) NOT NULL,
    run_id text NOT NULL,
    reused_from text,
    embedded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: entity_coverage; Type: VIEW; Schema: analytics_features; Owner: -
--

CREATE VIEW analytics_features.entity_coverage AS
 SELECT 'forced'::text AS entity,
    count(*) AS rows,
    count(*) FILTER (WHERE (by_row.pending = 0)) AS rows_with_vectors,
    COALESCE(round(((100.0 * (count(*) FILTER (WHERE (by_row.pending = 0)))::numeric) / (NULLIF(count(*), 0))::numeric), 2), (100)::numeric) AS coverage_percent,
    (COALESCE(sum(by_row.pending), (0)::numeric))::bigint AS pending,
    ( SELECT count(*) AS count
           FROM analytics_features.quarantine
          WHERE ((quarantine.entity = 'forced'::text) AND (quarantine.vector_set = ANY (ARRAY[0, 1])))) AS quarantined,
    (EXTRACT(epoch FROM (now() - min(by_row.pending_since))))::bigint AS oldest_pending_seconds,
    (COALESCE(sum(by_row.recent), (0)::numeric))::bigint AS vectors_last_24h
   FROM ( SELECT t.id,
            count(*) FILTER (WHERE (v.text_hash IS DISTINCT FROM t.text_hash)) AS pending,
            min(COALESCE(t.source_changed_at, t.serialised_at)) FILTER (WHERE (v.text_hash IS DISTINCT FROM t.text_hash)) AS pending_since,
            count(*) FILTER (WHERE (v.embedded_at > (now() - '24:00:00'::interval))) AS recent
           FROM (analytics_features.forced_texts t
             LEFT JOIN analytics_features.forced_vectors_1 v ON (((v.id = t.id) AND (v.chunk = t.chunk))))
          WHERE (t.text_hash IS NOT NULL)
          GROUP BY t.id) by_row
UNION ALL
 SELECT 'item'::text AS entity,
    count(*) AS rows,
    count(*) FILTER (WHERE (by_row.pending = 0)) AS rows_with_vectors,
    COALESCE(round(((100.0 * (count(*) FILTER (WHERE (by_row.pending = 0)))::numeric) / (NULLIF(count(*), 0))::numeric), 2), (100)::numeric) AS coverage_percent,
    (COALESCE(sum(by_row.pending), (0)::numeric))::bigint AS pending,
    ( SELECT count(*) AS count
           FROM analytics_features.quarantine
          WHERE ((quarantine.entity = 'item'::text) AND (quarantine.vector_set = ANY (ARRAY[0, 1])))) AS quarantined,
    (EXTRACT(epoch FROM (now() - min(by_row.pending_since))))::bigint AS oldest_pending_seconds,
    (COALESCE(sum(by_row.recent), (0)::numeric))::bigint AS vectors_last_24h
   FROM ( SELECT t.id,
            count(*) FILTER (WHERE (v.text_hash IS DISTINCT FROM t.text_hash)) AS pending,
            min(COALESCE(t.source_changed_at, t.serialised_at)) FILTER (WHERE (v.text_hash IS DISTINCT FROM t.text_hash)) AS pending_since,
            count(*) FILTER (WHERE (v.embedded_at > (now() - '24:00:00'::interval))) AS recent
           FROM (analytics_features.item_texts t
             LEFT JOIN analytics_features.item_vectors_1 v ON (((v.id = t.id) AND (v.chunk = t.chunk))))
          WHERE (t.text_hash IS NOT NULL)
          GROUP BY t.id) by_row
UNION ALL
 SELECT 'lamp'::text AS entity,
    count(*) AS rows,
    count(*) FILTER (WHERE (by_row.pending = 0)) AS rows_with_vectors,
    COALESCE(round(((100.0 * (count(*) FILTER (WHERE (by_row.pending = 0)))::numeric) / (NULLIF(count(*), 0))::numeric), 2), (100)::numeric) AS coverage_percent,
    (COALESCE(sum(by_row.pending), (0)::numeric))::bigint AS pending,
    ( SELECT count(*) AS count
           FROM analytics_features.quarantine
          WHERE ((quarantine.entity = 'lamp'::text) AND (quarantine.vector_set = ANY (ARRAY[0, 1])))) AS quarantined,
    (EXTRACT(epoch FROM (now() - min(by_row.pending_since))))::bigint AS oldest_pending_seconds,
    (COALESCE(sum(by_row.recent), (0)::numeric))::bigint AS vectors_last_24h
   FROM ( SELECT t.id,
            count(*) FILTER (WHERE (v.text_hash IS DISTINCT FROM t.text_hash)) AS pending,
            min(COALESCE(t.source_changed_at, t.serialised_at)) FILTER (WHERE (v.text_hash IS DISTINCT FROM t.text_hash)) AS pending_since,
            count(*) FILTER (WHERE (v.embedded_at > (now() - '24:00:00'::interval))) AS recent
           FROM (analytics_features.lamp_texts t
             LEFT JOIN analytics_features.lamp_vectors_1 v ON (((v.id = t.id) AND (v.chunk = t.chunk))))
          WHERE (t.text_hash IS NOT NULL)
          GROUP BY t.id) by_row
UNION ALL
 SELECT 'shoe'::text AS entity,
    count(*) AS rows,
    count(*) FILTER (WHERE (by_row.pending = 0)) AS rows_with_vectors,
    COALESCE(round(((100.0 * (count(*) FILTER (WHERE (by_row.pending = 0)))::numeric) / (NULLIF(count(*), 0))::numeric), 2), (100)::numeric) AS coverage_percent,
    (COALESCE(sum(by_row.pending), (0)::numeric))::bigint AS pending,
    ( SELECT count(*) AS count
           FROM analytics_features.quarantine
          WHERE ((quarantine.entity = 'shoe'::text) AND (quarantine.vector_set = ANY (ARRAY[0, 1])))) AS quarantined,
    (EXTRACT(epoch FROM (now() - min(by_row.pending_since))))::bigint AS oldest_pending_seconds,
    (COALESCE(sum(by_row.recent), (0)::numeric))::bigint AS vectors_last_24h
   FROM ( SELECT t.id,
            count(*) FILTER (WHERE (v.text_hash IS DISTINCT FROM t.text_hash)) AS pending,
            min(COALESCE(t.source_changed_at, t.serialised_at)) FILTER (WHERE (v.text_hash IS DISTINCT FROM t.text_hash)) AS pending_since,
            count(*) FILTER (WHERE (v.embedded_at > (now() - '24:00:00'::interval))) AS recent
           FROM (analytics_features.shoe_texts t
             LEFT JOIN analytics_features.shoe_vectors_1 v ON (((v.id = t.id) AND (v.chunk = t.chunk))))
          WHERE (t.text_hash IS NOT NULL)
          GROUP BY t.id) by_row;


--
-- Name: erasures; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.erasures (
    entity text NOT NULL,
    id text NOT NULL,
    erased_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: evictions; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.evictions (
    entity text NOT NULL,
    text_hash bytea NOT NULL,
    noted_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: forced_embeddings; Type: VIEW; Schema: analytics_features; Owner: -
--

CREATE VIEW analytics_features.forced_embeddings AS
 SELECT id,
    chunk,
    text,
    (embedding)::public.vector AS embedding,
    'fake/words'::text AS model,
    text_hash,
    embedded_at AS updated_at
   FROM analytics_features.forced_vectors_1;


--
-- Name: forced_lexemes; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.forced_lexemes (
    lexeme text NOT NULL,
    documents bigint NOT NULL
);


--
-- Name: item_embeddings; Type: VIEW; Schema: analytics_features; Owner: -
--

CREATE VIEW analytics_features.item_embeddings AS
 SELECT id,
    chunk,
    text,
    (embedding)::public.vector AS embedding,
    'fake/words'::text AS model,
    text_hash,
    embedded_at AS updated_at,
    stock
   FROM analytics_features.item_vectors_1;


--
-- Name: item_lexemes; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.item_lexemes (
    lexeme text NOT NULL,
    documents bigint NOT NULL
);


--
-- Name: item_vectors_2; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.item_vectors_2 (
    id bigint NOT NULL,
    chunk integer NOT NULL,
    text text NOT NULL,
    text_hash bytea NOT NULL,
    embedding public.vector(8) NOT NULL,
    run_id text NOT NULL,
    reused_from text,
    embedded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    stock integer
);


--
-- Name: lamp_embeddings; Type: VIEW; Schema: analytics_features; Owner: -
--

CREATE VIEW analytics_features.lamp_embeddings AS
 SELECT id,
    chunk,
    text,
    (embedding)::public.vector AS embedding,
    'fake/words'::text AS model,
    text_hash,
    embedded_at AS updated_at
   FROM analytics_features.lamp_vectors_1;


--
-- Name: lamp_lexemes; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.lamp_lexemes (
    lexeme text NOT NULL,
    documents bigint NOT NULL
);


--
-- Name: run_ledger; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.run_ledger (
    entity text NOT NULL,
    run_id text NOT NULL,
    kind text NOT NULL,
    partition_keys text[] DEFAULT '{}'::text[] NOT NULL,
    model text,
    device text,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamp with time zone,
    plan jsonb,
    read bigint DEFAULT 0 NOT NULL,
    pending bigint DEFAULT 0 NOT NULL,
    encoded bigint DEFAULT 0 NOT NULL,
    reused bigint DEFAULT 0 NOT NULL,
    deleted bigint DEFAULT 0 NOT NULL,
    quarantined bigint DEFAULT 0 NOT NULL,
    truncated bigint DEFAULT 0 NOT NULL,
    tokens bigint DEFAULT 0 NOT NULL,
    cost_usd numeric DEFAULT 0 NOT NULL,
    seconds double precision DEFAULT 0 NOT NULL,
    encode_seconds double precision DEFAULT 0 NOT NULL,
    cached bigint DEFAULT 0 NOT NULL,
    saved_usd numeric DEFAULT 0 NOT NULL
);


--
-- Name: shoe_embeddings; Type: VIEW; Schema: analytics_features; Owner: -
--

CREATE VIEW analytics_features.shoe_embeddings AS
 SELECT id,
    chunk,
    text,
    (embedding)::public.vector AS embedding,
    'fake/words'::text AS model,
    text_hash,
    embedded_at AS updated_at
   FROM analytics_features.shoe_vectors_1;


--
-- Name: shoe_lexemes; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.shoe_lexemes (
    lexeme text NOT NULL,
    documents bigint NOT NULL
);


--
-- Name: vector_sets; Type: TABLE; Schema: analytics_features; Owner: -
--

CREATE TABLE analytics_features.vector_sets (
    entity text NOT NULL,
    number integer NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    revision text NOT NULL,
    dimension integer NOT NULL,
    storage text NOT NULL,
    metric text NOT NULL,
    max_tokens integer NOT NULL,
    normalized boolean NOT NULL,
    table_name text NOT NULL,
    state text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    published_at timestamp with time zone,
    index_settings jsonb,
    index_rows bigint,
    recall double precision,
    ef_search integer,
    indexed_at timestamp with time zone,
    canary jsonb,
    force_since timestamp with time zone,
    force_keys text[],
    CONSTRAINT vector_sets_state_check CHECK ((state = ANY (ARRAY['building'::text, 'live'::text, 'retired'::text])))
);


--
-- Name: mart; Type: VIEW; Schema: staging; Owner: -
--

CREATE VIEW staging.mart AS
 SELECT id,
    text,
    text_hash,
    updated_at
   FROM analytics_features.item_embeddings;


--
-- Name: stg_forced; Type: TABLE; Schema: staging; Owner: -
--

CREATE TABLE staging.stg_forced (
    id bigint,
    name text
);


--
-- Name: stg_item; Type: TABLE; Schema: staging; Owner: -
--

CREATE TABLE staging.stg_item (
    id bigint,
    name text,
    stock integer,
    updated_at timestamp with time zone
);


--
-- Name: stg_lamp; Type: TABLE; Schema: staging; Owner: -
--

CREATE TABLE staging.stg_lamp (
    id uuid,
    name text,
    lit_on date
);


--
-- Name: stg_shoe; Type: TABLE; Schema: staging; Owner: -
--

CREATE TABLE staging.stg_shoe (
    id text,
    name text,
    brand text
);


--
-- Data for Name: entities; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.entities VALUES ('shoe', '{"id": "id", "name": "shoe", "table": "stg_shoe", "weights": {"name": 3.0, "brand": 1.0}, "db_schema": "staging"}', '666b35e39385b7684c5b1a9847075ecaf33918e8496dfd28860d6344591c662b', 'text', '{"by":"hash","count":8}', false, '2026-11-26 18:48:28.149303+00', 5, 6.6, '2026-11-26 18:48:28.200475+00');
INSERT INTO analytics_features.entities VALUES ('lamp', '{"id": "id", "name": "lamp", "table": "stg_lamp", "storage": "halfvec", "template": "{name}", "db_schema": "staging", "partitions": {"by": "day", "start": "2026-01-01", "column": "lit_on"}}', 'bc350e0a42bb454d761613c8e2595e789d322bd0697d02db877c6121698b9d6b', 'uuid', '{"by":"day","column":"lit_on","start":"2026-01-01","lookback_days":7}', false, '2026-11-26 18:48:28.271479+00', 4, 4.5, '2026-11-26 18:48:28.316729+00');
INSERT INTO analytics_features.entities VALUES ('forced', '{"id": "id", "name": "forced", "table": "stg_forced", "db_schema": "staging"}', '0c8c987a422b44114d960ab04fba4466eb45b13b0f38f9b33ab2224302fc7ef7', 'bigint', '{"by":"hash","count":8}', false, '2026-11-26 18:48:28.383192+00', 6, 6.166666666666667, '2026-11-26 18:48:28.429964+00');
INSERT INTO analytics_features.entities VALUES ('item', '{"id": "id", "name": "item", "chunk": {"tokens": 16}, "model": "fake/other", "table": "stg_item", "filters": ["stock"], "template": "{name}", "db_schema": "staging", "changed_at": "updated_at", "partitions": {"by": "hash", "count": 2}}', 'b4ea4e4a6f308fd2d45782b327d9d6132a5003734fdab785c5a5910c7f1fbda7', 'bigint', '{"by":"hash","count":2}', false, '2026-11-26 18:48:28.500025+00', 13, 8.153846153846153, '2026-11-26 18:48:28.008172+00');


--
-- Data for Name: erasures; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.erasures VALUES ('item', '9', '2026-11-26 18:48:28.57339+00');


--
-- Data for Name: evictions; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.evictions VALUES ('item', '\xb9412c2da6e5f16f4415b5051991d922b0291b1009aedef29965ab2fea909ddc', '2026-11-26 18:48:28.57501+00');


--
-- Data for Name: forced_lexemes; Type: TABLE DATA; Schema: analytics_features; Owner: -
--



--
-- Data for Name: forced_texts; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.forced_texts VALUES (6, 0, '04', 3547513959505788684, 'name: fig bowl', NULL, NULL, '\x1fabbc6b89279923637f539f52bdc6e84f4bdbc59b31545afe45f595cc0538f8', 6, NULL, NULL, '2026-11-26 18:48:28.374956+00', DEFAULT);
INSERT INTO analytics_features.forced_texts VALUES (4, 0, '01', -5160587734688923242, 'name: yew bowl', NULL, NULL, '\x23f94cdcc79c4049d2fdd147ea65d563123e788822227de4733047d4c35b1bc8', 7, NULL, NULL, '2026-11-26 18:48:28.374956+00', DEFAULT);
INSERT INTO analytics_features.forced_texts VALUES (3, 0, '06', -7967217085805410462, 'name: elm bowl', NULL, NULL, '\x2302ebd3c7dc5d10b433726b734c5303c23332a7aca04cbcf064e7480030e007', 6, NULL, NULL, '2026-11-26 18:48:28.374956+00', DEFAULT);
INSERT INTO analytics_features.forced_texts VALUES (2, 0, '05', 1363782958885400566, 'name: ash bowl', NULL, NULL, '\x9e58060b8db86b77179f4d8748dcb065cbdc2c6a0f1f766fc4e2622aab85323d', 6, NULL, NULL, '2026-11-26 18:48:28.374956+00', DEFAULT);
INSERT INTO analytics_features.forced_texts VALUES (5, 0, '07', -5269899934190819901, 'name: fir bowl', NULL, NULL, '\xaa3745ed0c55f03313b31c23ed729b68c727721b8d64ed15bfd28935e0503219', 6, NULL, NULL, '2026-11-26 18:48:28.374956+00', DEFAULT);
INSERT INTO analytics_features.forced_texts VALUES (1, 0, '00', 8526781634101501958, 'name: oak bowl', NULL, NULL, '\xfea506e469f5946f3f71a7d2972bb4597261051be7ad521b51b4ad7eedc2470c', 6, NULL, NULL, '2026-11-26 18:48:28.374956+00', DEFAULT);


--
-- Data for Name: forced_vectors_1; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.forced_vectors_1 VALUES (6, 0, 'name: fig bowl', '\x1fabbc6b89279923637f539f52bdc6e84f4bdbc59b31545afe45f595cc0538f8', '[0.38289443,0.13332868,-0.12960768,0.44433984,-0.2835658,0.70921314,-0.19370127,-0.021594105]', '18ee9cbb-4896-4143-90ac-78dd13105a31', NULL, '2026-11-26 18:48:28.421848+00');
INSERT INTO analytics_features.forced_vectors_1 VALUES (2, 0, 'name: ash bowl', '\x9e58060b8db86b77179f4d8748dcb065cbdc2c6a0f1f766fc4e2622aab85323d', '[-0.28642678,-0.38296297,0.0703651,0.57211775,-0.46056288,0.1483005,-0.44373685,0.08952923]', '18ee9cbb-4896-4143-90ac-78dd13105a31', NULL, '2026-11-26 18:48:28.421854+00');
INSERT INTO analytics_features.forced_vectors_1 VALUES (3, 0, 'name: elm bowl', '\x2302ebd3c7dc5d10b433726b734c5303c23332a7aca04cbcf064e7480030e007', '[-0.42420986,-0.23981515,-0.009172371,0.37515795,-0.29037282,-0.24159853,-0.6772203,-0.14280584]', '18ee9cbb-4896-4143-90ac-78dd13105a31', NULL, '2026-11-26 18:48:28.421859+00');
INSERT INTO analytics_features.forced_vectors_1 VALUES (5, 0, 'name: fir bowl', '\xaa3745ed0c55f03313b31c23ed729b68c727721b8d64ed15bfd28935e0503219', '[0.43205708,0.26337937,-0.0770153,-0.2314485,-0.38429338,-0.22395584,-0.6142077,0.33071065]', '18ee9cbb-4896-4143-90ac-78dd13105a31', NULL, '2026-11-26 18:48:28.421863+00');
INSERT INTO analytics_features.forced_vectors_1 VALUES (1, 0, 'name: oak bowl', '\xfea506e469f5946f3f71a7d2972bb4597261051be7ad521b51b4ad7eedc2470c', '[0.014891702,0.4192731,0.039185103,0.47360787,-0.18755883,0.4792069,-0.43368712,-0.38111198]', '15ce362e-2abd-4209-9f5f-f4c528d18bf0', NULL, '2026-11-26 18:48:28.482471+00');
INSERT INTO analytics_features.forced_vectors_1 VALUES (4, 0, 'name: yew bowl', '\x23f94cdcc79c4049d2fdd147ea65d563123e788822227de4733047d4c35b1bc8', '[-0.21377514,-0.3369639,-0.2882995,0.46188393,-0.37284073,0.20839433,-0.48421478,-0.3569311]', '15ce362e-2abd-4209-9f5f-f4c528d18bf0', NULL, '2026-11-26 18:48:28.482508+00');


--
-- Data for Name: item_lexemes; Type: TABLE DATA; Schema: analytics_features; Owner: -
--



--
-- Data for Name: item_texts; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.item_texts VALUES (10, 0, '00', 3433754307371302665, 'folding camp chair', NULL, NULL, '\x5baf9255a67a34fabfb899ba09399fb130a18caf0a8179c55fa0a9fc7d638ce8', 5, NULL, '2026-01-10 12:00:00+00', '2026-11-26 18:48:27.921417+00', 6, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (7, 0, '01', -1293661753656499339, 'steel water bottle', NULL, NULL, '\x5af4d7017b8470125cbca7c07fe8f56db62d34644be1db0729127d511e742ded', 5, NULL, '2026-01-07 12:00:00+00', '2026-11-26 18:48:27.921417+00', 9, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (6, 4, '00', -3970905369517610657, 'Pegs, ropes and a bag are part of it.', NULL, NULL, '\x4e4413537b84e3fcf69c49eeaee9781b43a8baf6b7e12c30090a6135925c3f1e', 14, NULL, '2026-01-06 12:00:00+00', '2026-11-26 18:48:27.921417+00', 7, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (6, 3, '00', -3970905369517610657, 'runs down a slope.', NULL, NULL, '\x6936afc3fa269059cdc61d1b3db8412915ea6f63f8ebe0c0127f9490d459ca9f', 7, NULL, '2026-01-06 12:00:00+00', '2026-11-26 18:48:27.921417+00', 7, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (6, 2, '00', -3970905369517610657, 'The floor is sewn to the walls, and keeps out rain that', NULL, NULL, '\x31f29090aff2ce3ea9bf5749aab058b24b062be83848eebf42dd6a787e0489d8', 16, NULL, '2026-01-06 12:00:00+00', '2026-11-26 18:48:27.921417+00', 7, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (6, 1, '00', -3970905369517610657, 'The poles are made of light metal and fold to half a metre.', NULL, NULL, '\x1e68d0cab1803e2934fbc7a20aa1e809a35ade44b9515a91199d675e1dd0edbd', 16, NULL, '2026-01-06 12:00:00+00', '2026-11-26 18:48:27.921417+00', 7, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (6, 0, '00', -3970905369517610657, 'A tent for three people with two doors.', NULL, NULL, '\x76944ee273cb7b6b352ef5dd34679d990849e558cabbf4f909bcd35a90a3c0e2', 11, NULL, '2026-01-06 12:00:00+00', '2026-11-26 18:48:27.921417+00', 7, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (8, 0, '01', 6554312273086181090, 'wool winter hat', NULL, NULL, '\xca9d9d166592e5d745e5744ff1df8c242c22bad2ebd35983bdafa24b856c8e82', 5, NULL, '2026-01-08 12:00:00+00', '2026-11-26 18:48:27.921417+00', 4, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (4, 0, '01', 1006900644451601040, NULL, NULL, NULL, NULL, 0, NULL, '2026-01-04 12:00:00+00', '2026-11-26 18:48:27.921417+00', 1, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (3, 0, '00', 1053774923541130156, 'poison', NULL, NULL, '\xf398aabed21150bb03a16b86078cb1c78b8cc4d2fcffc834948f3745266f4055', 3, NULL, '2026-01-03 12:00:00+00', '2026-11-26 18:48:27.921417+00', 3, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (2, 0, '01', -4693775117711165503, 'blue rubber boots', NULL, NULL, '\x95bd42d2851570c3d121d9b730613ccae64f4ed19a292624133f1a9f1074929e', 5, NULL, '2026-01-02 12:00:00+00', '2026-11-26 18:48:27.921417+00', 0, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (5, 0, '01', 8539841228220943560, 'red canvas tent', NULL, NULL, '\x135aa56aaddb7b7e6343cd7479802f245fd18b489ee0388956ef4519869c8491', 5, NULL, '2026-01-05 12:00:00+00', '2026-11-26 18:48:27.921417+00', 2, DEFAULT);
INSERT INTO analytics_features.item_texts VALUES (1, 0, '00', 461014137106252133, 'red canvas tent', NULL, NULL, '\x135aa56aaddb7b7e6343cd7479802f245fd18b489ee0388956ef4519869c8491', 5, NULL, '2026-01-01 12:00:00+00', '2026-11-26 18:48:27.921417+00', 5, DEFAULT);


--
-- Data for Name: item_vectors_1; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.item_vectors_1 VALUES (1, 0, 'red canvas tent', '\x135aa56aaddb7b7e6343cd7479802f245fd18b489ee0388956ef4519869c8491', '[-0.35740364,0.341436,-0.21680693,0.12552002,-0.08598326,0.20547281,0.511861,0.61750275]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', 'item/5/0', '2026-11-26 18:48:27.990304+00', 5);
INSERT INTO analytics_features.item_vectors_1 VALUES (6, 0, 'A tent for three people with two doors.', '\x76944ee273cb7b6b352ef5dd34679d990849e558cabbf4f909bcd35a90a3c0e2', '[0.31368747,0.29372445,-0.57260686,0.54813075,-0.06976117,0.27587903,0.15252292,-0.28768224]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.990473+00', 7);
INSERT INTO analytics_features.item_vectors_1 VALUES (6, 1, 'The poles are made of light metal and fold to half a metre.', '\x1e68d0cab1803e2934fbc7a20aa1e809a35ade44b9515a91199d675e1dd0edbd', '[0.006581887,0.58493936,-0.30556402,0.1889165,-0.106692664,0.62416404,-0.12307824,0.33560613]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.99056+00', 7);
INSERT INTO analytics_features.item_vectors_1 VALUES (6, 2, 'The floor is sewn to the walls, and keeps out rain that', '\x31f29090aff2ce3ea9bf5749aab058b24b062be83848eebf42dd6a787e0489d8', '[-0.46479315,0.54999065,0.054053135,0.057196308,-0.119410224,0.58693147,-0.083823964,-0.33092397]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.990569+00', 7);
INSERT INTO analytics_features.item_vectors_1 VALUES (6, 3, 'runs down a slope.', '\x6936afc3fa269059cdc61d1b3db8412915ea6f63f8ebe0c0127f9490d459ca9f', '[0.25877237,0.53940165,0.48820612,-0.3108669,-0.30171794,0.2326813,0.039948422,0.40041116]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.990575+00', 7);
INSERT INTO analytics_features.item_vectors_1 VALUES (6, 4, 'Pegs, ropes and a bag are part of it.', '\x4e4413537b84e3fcf69c49eeaee9781b43a8baf6b7e12c30090a6135925c3f1e', '[0.41903788,-0.203603,-0.0022915627,0.14923736,-0.26826665,-0.5270361,0.5597923,0.31236932]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.99058+00', 7);
INSERT INTO analytics_features.item_vectors_1 VALUES (10, 0, 'folding camp chair', '\x5baf9255a67a34fabfb899ba09399fb130a18caf0a8179c55fa0a9fc7d638ce8', '[-0.03088772,-0.09886109,-0.31921554,-0.1918686,-0.83751345,0.11141765,-0.29355475,0.22481827]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.990589+00', 6);
INSERT INTO analytics_features.item_vectors_1 VALUES (2, 0, 'blue rubber boots', '\x95bd42d2851570c3d121d9b730613ccae64f4ed19a292624133f1a9f1074929e', '[-0.06288068,-0.23154494,0.16038856,0.48413587,-0.11207533,0.0731075,0.57267404,-0.58005154]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.990595+00', 0);
INSERT INTO analytics_features.item_vectors_1 VALUES (5, 0, 'red canvas tent', '\x135aa56aaddb7b7e6343cd7479802f245fd18b489ee0388956ef4519869c8491', '[-0.35740364,0.341436,-0.21680693,0.12552002,-0.08598326,0.20547281,0.511861,0.61750275]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.9906+00', 2);
INSERT INTO analytics_features.item_vectors_1 VALUES (7, 0, 'steel water bottle', '\x5af4d7017b8470125cbca7c07fe8f56db62d34644be1db0729127d511e742ded', '[0.23555641,-0.014096972,0.12296988,0.7291472,0.37555838,-0.21735787,-0.27791962,-0.36333093]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.990608+00', 9);
INSERT INTO analytics_features.item_vectors_1 VALUES (8, 0, 'wool winter hat', '\xca9d9d166592e5d745e5744ff1df8c242c22bad2ebd35983bdafa24b856c8e82', '[0.14059003,-0.48343125,0.041191474,-0.53560877,-0.42196137,0.20993094,-0.48328245,-0.04765329]', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', NULL, '2026-11-26 18:48:27.990613+00', 4);


--
-- Data for Name: item_vectors_2; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.item_vectors_2 VALUES (1, 0, 'red canvas tent', '\x135aa56aaddb7b7e6343cd7479802f245fd18b489ee0388956ef4519869c8491', '[0.4906775,0.2232448,0.32209054,0.23098938,-0.039998543,-0.28177768,-0.5156307,0.4532387]', 'bb69e016-fff8-416b-b4f1-6ab3854c3c8a', 'item/5/0', '2026-11-26 18:48:28.559189+00', 5);
INSERT INTO analytics_features.item_vectors_2 VALUES (6, 0, 'A tent for three people with two doors.', '\x76944ee273cb7b6b352ef5dd34679d990849e558cabbf4f909bcd35a90a3c0e2', '[0.14912531,-0.12554815,-0.49518567,-0.05225848,0.39031655,0.61600393,-0.33582422,0.26357883]', 'bb69e016-fff8-416b-b4f1-6ab3854c3c8a', NULL, '2026-11-26 18:48:28.559341+00', 7);
INSERT INTO analytics_features.item_vectors_2 VALUES (6, 1, 'The poles are made of light metal and fold to half a metre.', '\x1e68d0cab1803e2934fbc7a20aa1e809a35ade44b9515a91199d675e1dd0edbd', '[0.47633702,0.14530997,0.39268273,-0.43933338,0.26422688,0.15041731,0.23045509,-0.5091402]', 'bb69e016-fff8-416b-b4f1-6ab3854c3c8a', NULL, '2026-11-26 18:48:28.559353+00', 7);
INSERT INTO analytics_features.item_vectors_2 VALUES (6, 2, 'The floor is sewn to the walls, and keeps out rain that', '\x31f29090aff2ce3ea9bf5749aab058b24b062be83848eebf42dd6a787e0489d8', '[-0.121529676,-0.021957457,-0.09117029,-0.047329802,-0.022742912,-0.082279146,0.008561722,-0.98327816]', 'bb69e016-fff8-416b-b4f1-6ab3854c3c8a', NULL, '2026-11-26 18:48:28.559359+00', 7);
INSERT INTO analytics_features.item_vectors_2 VALUES (6, 3, 'runs down a slope.', '\x6936afc3fa269059cdc61d1b3db8412915ea6f63f8ebe0c0127f9490d459ca9f', '[0.019121185,0.10930822,-0.34588763,0.46723306,-0.32930547,0.18877552,-0.49087453,0.5144949]', 'bb69e016-fff8-416b-b4f1-6ab3854c3c8a', NULL, '2026-11-26 18:48:28.559364+00', 7);
INSERT INTO analytics_features.item_vectors_2 VALUES (6, 4, 'Pegs, ropes and a bag are part of it.', '\x4e4413537b84e3fcf69c49eeaee9781b43a8baf6b7e12c30090a6135925c3f1e', '[0.536321,-0.012853359,0.18131329,0.2537307,0.4855588,-0.2979394,0.5388447,0.007210295]', 'bb69e016-fff8-416b-b4f1-6ab3854c3c8a', NULL, '2026-11-26 18:48:28.559368+00', 7);
INSERT INTO analytics_features.item_vectors_2 VALUES (5, 0, 'red canvas tent', '\x135aa56aaddb7b7e6343cd7479802f245fd18b489ee0388956ef4519869c8491', '[0.4906775,0.2232448,0.32209054,0.23098938,-0.039998543,-0.28177768,-0.5156307,0.4532387]', 'bb69e016-fff8-416b-b4f1-6ab3854c3c8a', NULL, '2026-11-26 18:48:28.559373+00', 2);


--
-- Data for Name: lamp_lexemes; Type: TABLE DATA; Schema: analytics_features; Owner: -
--



--
-- Data for Name: lamp_texts; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.lamp_texts VALUES ('00000000-0000-0000-0000-000000000003', 0, '2026-01-05', -8539038872404902721, 'paper lantern', NULL, NULL, '\xba8c4f46bf99e1b73115e70d0e64f6cbbe6dd55f9cc1414e78e4dccb5a684191', 4, NULL, NULL, '2026-11-26 18:48:28.263535+00', DEFAULT);
INSERT INTO analytics_features.lamp_texts VALUES ('00000000-0000-0000-0000-000000000004', 0, '2026-01-01', 1161016823322619272, 'garden torch', NULL, NULL, '\x656044ee1bb545cd41b0925d7de52b4eba64d83c5b4be2b9d7f637e0e06cb814', 4, NULL, NULL, '2026-11-26 18:48:28.263535+00', DEFAULT);
INSERT INTO analytics_features.lamp_texts VALUES ('00000000-0000-0000-0000-000000000002', 0, '2026-01-02', -5926231029883998441, 'blue rubber boots', NULL, NULL, '\x95bd42d2851570c3d121d9b730613ccae64f4ed19a292624133f1a9f1074929e', 5, NULL, NULL, '2026-11-26 18:48:28.263535+00', DEFAULT);
INSERT INTO analytics_features.lamp_texts VALUES ('00000000-0000-0000-0000-000000000001', 0, '2026-01-02', 6989399119990883649, 'brass desk lamp', NULL, NULL, '\xd355f303cfbde011587cdb4dde1aad6544ac07cfb1e3458d4bbca93577f620ba', 5, NULL, NULL, '2026-11-26 18:48:28.263535+00', DEFAULT);
INSERT INTO analytics_features.lamp_texts VALUES ('00000000-0000-0000-0000-000000000005', 0, '', 0, NULL, NULL, NULL, NULL, 0, NULL, NULL, '2026-11-26 18:48:28.263535+00', DEFAULT);


--
-- Data for Name: lamp_vectors_1; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.lamp_vectors_1 VALUES ('00000000-0000-0000-0000-000000000002', 0, 'blue rubber boots', '\x95bd42d2851570c3d121d9b730613ccae64f4ed19a292624133f1a9f1074929e', '[-0.06286621,-0.23156738,0.16040039,0.48413086,-0.11206055,0.07312012,0.5727539,-0.5800781]', '806fc9da-e01a-48e2-96af-b80f0bd5e56e', 'item/2/0', '2026-11-26 18:48:28.303169+00');
INSERT INTO analytics_features.lamp_vectors_1 VALUES ('00000000-0000-0000-0000-000000000004', 0, 'garden torch', '\x656044ee1bb545cd41b0925d7de52b4eba64d83c5b4be2b9d7f637e0e06cb814', '[0.28930664,-0.082336426,-0.15942383,-0.47924805,-0.7626953,0.24121094,-0.07647705,0.09387207]', '806fc9da-e01a-48e2-96af-b80f0bd5e56e', NULL, '2026-11-26 18:48:28.308916+00');
INSERT INTO analytics_features.lamp_vectors_1 VALUES ('00000000-0000-0000-0000-000000000001', 0, 'brass desk lamp', '\xd355f303cfbde011587cdb4dde1aad6544ac07cfb1e3458d4bbca93577f620ba', '[0.32226562,-0.24255371,0.5673828,0.05407715,0.39941406,-0.1829834,0.034210205,-0.5644531]', '806fc9da-e01a-48e2-96af-b80f0bd5e56e', NULL, '2026-11-26 18:48:28.308946+00');
INSERT INTO analytics_features.lamp_vectors_1 VALUES ('00000000-0000-0000-0000-000000000003', 0, 'paper lantern', '\xba8c4f46bf99e1b73115e70d0e64f6cbbe6dd55f9cc1414e78e4dccb5a684191', '[0.25585938,0.15258789,-0.39160156,-0.3022461,0.62939453,-0.19628906,0.10784912,0.46923828]', '806fc9da-e01a-48e2-96af-b80f0bd5e56e', NULL, '2026-11-26 18:48:28.308953+00');


--
-- Data for Name: quarantine; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.quarantine VALUES ('lamp', '00000000-0000-0000-0000-000000000005', 0, 0, 'partition', 'lit_on is 2999-01-01, after today', 1, NULL, '2026-11-26 18:48:28.263535+00', '2026-11-26 18:48:28.263535+00');
INSERT INTO analytics_features.quarantine VALUES ('item', '3', 0, 1, 'encode', 'ValueError: cannot take this', 3, '\xf398aabed21150bb03a16b86078cb1c78b8cc4d2fcffc834948f3745266f4055', '2026-11-26 18:48:27.991739+00', '2026-11-26 18:48:28.537376+00');
INSERT INTO analytics_features.quarantine VALUES ('item', '3', 0, 2, 'encode', 'ValueError: cannot take this', 1, '\xf398aabed21150bb03a16b86078cb1c78b8cc4d2fcffc834948f3745266f4055', '2026-11-26 18:48:28.560261+00', '2026-11-26 18:48:28.560261+00');


--
-- Data for Name: run_ledger; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.run_ledger VALUES ('item', 'cd0bb692-eb6e-4b78-adb2-f2dbceab8c1d', 'run', '{00,01}', 'fake/words', 'cpu', '2026-11-26 18:48:27.838857+00', '2026-11-26 18:48:27.99713+00', '[{"rows": 9, "encode": 12, "tokens": 101, "seconds": null, "cost_usd": 0.0}]', 10, 13, 11, 1, 0, 1, 0, 98, 0, 0.14064838500007681, 0, 0, 0);
INSERT INTO analytics_features.run_ledger VALUES ('item', '5a61bba4-9305-478c-b7b9-d2d77e9cd3b5', 'run', '{00}', 'fake/words', NULL, '2026-11-26 18:48:28.089169+00', '2026-11-26 18:48:28.100468+00', '[{"rows": 1, "encode": 1, "tokens": 3, "seconds": null, "cost_usd": 0.0}]', 0, 1, 0, 0, 0, 1, 0, 0, 0, 0.02539453700001104, 0, 0, 0);
INSERT INTO analytics_features.run_ledger VALUES ('shoe', '37379a02-7e3a-41de-bd37-c15da2d12ded', 'run', '{01,02,03,05}', 'fake/words', 'cpu', '2026-11-26 18:48:28.108445+00', '2026-11-26 18:48:28.195446+00', '[{"rows": 5, "encode": 5, "tokens": 26, "seconds": null, "cost_usd": 0.0}]', 5, 5, 5, 0, 0, 0, 0, 26, 0, 0.07310338199999933, 0, 0, 0);
INSERT INTO analytics_features.run_ledger VALUES ('lamp', '806fc9da-e01a-48e2-96af-b80f0bd5e56e', 'run', '{2026-01-01,2026-01-02,2026-01-05}', 'fake/words', 'cpu', '2026-11-26 18:48:28.240906+00', '2026-11-26 18:48:28.313219+00', '[{"rows": 4, "encode": 3, "tokens": 13, "seconds": null, "cost_usd": 0.0}]', 5, 4, 3, 1, 0, 1, 0, 13, 0, 0.05831922300012593, 0, 0, 0);
INSERT INTO analytics_features.run_ledger VALUES ('forced', '18ee9cbb-4896-4143-90ac-78dd13105a31', 'run', '{00,01,04,05,06,07}', 'fake/words', 'cpu', '2026-11-26 18:48:28.352453+00', '2026-11-26 18:48:28.426184+00', '[{"rows": 6, "encode": 6, "tokens": 37, "seconds": null, "cost_usd": 0.0}]', 6, 6, 6, 0, 0, 0, 0, 37, 0, 0.05899737099980484, 0, 0, 0);
INSERT INTO analytics_features.run_ledger VALUES ('forced', '15ce362e-2abd-4209-9f5f-f4c528d18bf0', 'run', '{00,01,04,05,06,07}', 'fake/words', 'cpu', '2026-11-26 18:48:28.476177+00', '2026-11-26 18:48:28.486201+00', '[{"rows": 6, "encode": 2, "tokens": 13, "seconds": null, "cost_usd": 0.0}]', 0, 6, 2, 0, 0, 0, 0, 13, 0, 0.022171639999896797, 0, 0, 0);
INSERT INTO analytics_features.run_ledger VALUES ('item', '5d7cff4d-d787-4498-bc13-cddfc4f9e217', 'run', '{}', NULL, NULL, '2026-11-26 18:48:28.489852+00', '2026-11-26 18:48:28.501399+00', NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.01154729299992141, 0, 0, 0);
INSERT INTO analytics_features.run_ledger VALUES ('item', 'bb69e016-fff8-416b-b4f1-6ab3854c3c8a', 'run', '{00,01}', 'fake/other', 'cpu', '2026-11-26 18:48:28.526995+00', '2026-11-26 18:48:28.565411+00', '[{"rows": 1, "encode": 1, "tokens": 3, "seconds": null, "cost_usd": 0.0}, {"rows": 9, "encode": 7, "tokens": 72, "seconds": null, "cost_usd": 0.0}]', 0, 14, 6, 1, 0, 2, 0, 69, 0, 0.04816705500002172, 0, 0, 0);


--
-- Data for Name: shoe_lexemes; Type: TABLE DATA; Schema: analytics_features; Owner: -
--



--
-- Data for Name: shoe_texts; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.shoe_texts VALUES ('a/1', 0, '01', -9108199926640652221, 'name: trail runner. brand: Hill', '{"trail runner",Hill}', '{3,1}', '\xfc2261e800afd808e7a1f7c6004ed07bea70e9d7b00a4705de95156f5901d0c5', 7, '{4,3}', NULL, '2026-11-26 18:48:28.139867+00', DEFAULT);
INSERT INTO analytics_features.shoe_texts VALUES ('a/3', 0, '01', -8254888183103458845, 'name: sandal', '{sandal}', '{3}', '\x8a760b83ae24db7efa8b64c17d5dcec431b2eeeccf054e5119fba29e57adebad', 4, '{4}', NULL, '2026-11-26 18:48:28.139867+00', DEFAULT);
INSERT INTO analytics_features.shoe_texts VALUES ('b-2', 0, '05', -6515939207788444649, 'name: house slipper. brand: Hearth', '{"house slipper",Hearth}', '{3,1}', '\x7aae2d9bf23cd47babe2253329ef0af786b151e698788cfc0ef82ef5118448ea', 8, '{5,3}', NULL, '2026-11-26 18:48:28.139867+00', DEFAULT);
INSERT INTO analytics_features.shoe_texts VALUES ('a/2', 0, '03', 6861392015839329465, 'name: rain boot. brand: Pond', '{"rain boot",Pond}', '{3,1}', '\x6f87cd4a158eb4c06ed6fa62102990aeed92f8b48a88d53597c00e74d4d09cf3', 7, '{4,3}', NULL, '2026-11-26 18:48:28.139867+00', DEFAULT);
INSERT INTO analytics_features.shoe_texts VALUES ('b-1', 0, '02', 6540831443802953206, 'name: trail runner. brand: Pond', '{"trail runner",Pond}', '{3,1}', '\xddac7e472506fc9741d79ab54dcc259c679afddaf5a8ebd063df9ae28abe7318', 7, '{4,3}', NULL, '2026-11-26 18:48:28.139867+00', DEFAULT);


--
-- Data for Name: shoe_vectors_1; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.shoe_vectors_1 VALUES ('a/1', 0, 'name: trail runner. brand: Hill', '\xfc2261e800afd808e7a1f7c6004ed07bea70e9d7b00a4705de95156f5901d0c5', '[-0.45945114,-0.18466564,0.32603315,-0.32855204,0.10566977,0.42154294,0.43960547,0.39804736]', '37379a02-7e3a-41de-bd37-c15da2d12ded', NULL, '2026-11-26 18:48:28.190971+00');
INSERT INTO analytics_features.shoe_vectors_1 VALUES ('a/3', 0, 'name: sandal', '\x8a760b83ae24db7efa8b64c17d5dcec431b2eeeccf054e5119fba29e57adebad', '[0.23728903,-0.42872438,-0.23128758,0.0054693776,-0.13220952,-0.052755654,-0.82268256,-0.09641779]', '37379a02-7e3a-41de-bd37-c15da2d12ded', NULL, '2026-11-26 18:48:28.191064+00');
INSERT INTO analytics_features.shoe_vectors_1 VALUES ('b-1', 0, 'name: trail runner. brand: Pond', '\xddac7e472506fc9741d79ab54dcc259c679afddaf5a8ebd063df9ae28abe7318', '[-0.2695944,-0.31598923,0.22584173,-0.610961,-0.26205528,0.48004583,0.22200963,0.23406535]', '37379a02-7e3a-41de-bd37-c15da2d12ded', NULL, '2026-11-26 18:48:28.191074+00');
INSERT INTO analytics_features.shoe_vectors_1 VALUES ('a/2', 0, 'name: rain boot. brand: Pond', '\x6f87cd4a158eb4c06ed6fa62102990aeed92f8b48a88d53597c00e74d4d09cf3', '[0.21206596,-0.15747018,0.23081636,-0.8434416,-0.3128668,0.069091804,-0.16721667,0.18692386]', '37379a02-7e3a-41de-bd37-c15da2d12ded', NULL, '2026-11-26 18:48:28.191079+00');
INSERT INTO analytics_features.shoe_vectors_1 VALUES ('b-2', 0, 'name: house slipper. brand: Hearth', '\x7aae2d9bf23cd47babe2253329ef0af786b151e698788cfc0ef82ef5118448ea', '[-0.22749819,-0.103444345,-0.5509013,-0.52082074,-0.44586325,-0.32596087,0.21840248,-0.10026571]', '37379a02-7e3a-41de-bd37-c15da2d12ded', NULL, '2026-11-26 18:48:28.191084+00');


--
-- Data for Name: vector_sets; Type: TABLE DATA; Schema: analytics_features; Owner: -
--

INSERT INTO analytics_features.vector_sets VALUES ('item', 1, 'fake', 'fake/words', 'r1', 8, 'vector', 'cosine', 256, true, 'item_vectors_1', 'live', '2026-11-26 18:48:27.945554+00', '2026-11-26 18:48:28.05785+00', '{"m": 16, "type": "hnsw", "metric": "cosine", "declared": {"m": 16, "type": "hnsw", "metric": "cosine", "ef_construction": 64}, "ef_construction": 64}', 12, 1, 20, '2026-11-26 18:48:28.012137+00', '{"rows": 12, "levels": [{"share": 1.0, "column": null, "p50_ms": 0.01, "p95_ms": 0.017, "queries": 12, "exact_p50_ms": 0.004, "recall_at_10": 1.0}, {"share": 0.1, "column": null, "p50_ms": 0.002, "p95_ms": 0.004, "queries": 12, "exact_p50_ms": 0.002, "recall_at_10": 1.0}, {"share": 0.01, "column": null, "p50_ms": 0.002, "p95_ms": 0.005, "queries": 12, "exact_p50_ms": 0.002, "recall_at_10": 1.0}], "measured_at": "2026-11-26T18:48:28.047019+00:00"}', NULL, NULL);
INSERT INTO analytics_features.vector_sets VALUES ('forced', 1, 'fake', 'fake/words', 'r1', 8, 'vector', 'cosine', 256, true, 'forced_vectors_1', 'live', '2026-11-26 18:48:28.389215+00', '2026-11-26 18:48:28.449387+00', '{"m": 16, "type": "hnsw", "metric": "cosine", "declared": {"m": 16, "type": "hnsw", "metric": "cosine", "ef_construction": 64}, "ef_construction": 64}', 6, 1, 20, '2026-11-26 18:48:28.432187+00', '{"rows": 6, "levels": [{"share": 1.0, "column": null, "p50_ms": 0.005, "p95_ms": 0.013, "queries": 6, "exact_p50_ms": 0.003, "recall_at_10": 1.0}, {"share": 0.1, "column": null, "p50_ms": 0.001, "p95_ms": 0.005, "queries": 6, "exact_p50_ms": 0.001, "recall_at_10": 1.0}, {"share": 0.01, "column": null, "p50_ms": 0.002, "p95_ms": 0.004, "queries": 6, "exact_p50_ms": 0.002, "recall_at_10": 1.0}], "measured_at": "2026-11-26T18:48:28.443285+00:00"}', '2026-11-26 18:48:28.463617+00', NULL);
INSERT INTO analytics_features.vector_sets VALUES ('shoe', 1, 'fake', 'fake/words', 'r1', 8, 'vector', 'cosine', 256, true, 'shoe_vectors_1', 'live', '2026-11-26 18:48:28.155762+00', '2026-11-26 18:48:28.226288+00', '{"m": 16, "type": "hnsw", "metric": "cosine", "declared": {"m": 16, "type": "hnsw", "metric": "cosine", "ef_construction": 64}, "ef_construction": 64}', 5, 1, 20, '2026-11-26 18:48:28.203355+00', '{"rows": 5, "levels": [{"share": 1.0, "column": null, "p50_ms": 0.005, "p95_ms": 0.013, "queries": 5, "exact_p50_ms": 0.007, "recall_at_10": 1.0}, {"share": 0.1, "column": null, "p50_ms": 0.002, "p95_ms": 0.004, "queries": 5, "exact_p50_ms": 0.002, "recall_at_10": 1.0}, {"share": 0.01, "column": null, "p50_ms": 0.002, "p95_ms": 0.003, "queries": 5, "exact_p50_ms": 0.002, "recall_at_10": 1.0}], "measured_at": "2026-11-26T18:48:28.218756+00:00"}', NULL, NULL);
INSERT INTO analytics_features.vector_sets VALUES ('item', 2, 'fake', 'fake/other', 'r2', 8, 'vector', 'cosine', 256, true, 'item_vectors_2', 'building', '2026-11-26 18:48:28.503914+00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO analytics_features.vector_sets VALUES ('lamp', 1, 'fake', 'fake/words', 'r1', 8, 'halfvec', 'cosine', 256, true, 'lamp_vectors_1', 'live', '2026-11-26 18:48:28.278137+00', '2026-11-26 18:48:28.336701+00', '{"m": 16, "type": "hnsw", "metric": "cosine", "declared": {"m": 16, "type": "hnsw", "metric": "cosine", "ef_construction": 64}, "ef_construction": 64}', 4, 1, 20, '2026-11-26 18:48:28.319265+00', '{"rows": 4, "levels": [{"share": 1.0, "column": null, "p50_ms": 0.005, "p95_ms": 0.014, "queries": 4, "exact_p50_ms": 0.003, "recall_at_10": 1.0}, {"share": 0.1, "column": null, "p50_ms": 0.003, "p95_ms": 0.005, "queries": 4, "exact_p50_ms": 0.003, "recall_at_10": 1.0}, {"share": 0.01, "column": null, "p50_ms": 0.002, "p95_ms": 0.004, "queries": 4, "exact_p50_ms": 0.002, "recall_at_10": 1.0}], "measured_at": "2026-11-26T18:48:28.330747+00:00"}', NULL, NULL);


--
-- Data for Name: stg_forced; Type: TABLE DATA; Schema: staging; Owner: -
--

INSERT INTO staging.stg_forced VALUES (1, 'oak bowl');
INSERT INTO staging.stg_forced VALUES (2, 'ash bowl');
INSERT INTO staging.stg_forced VALUES (3, 'elm bowl');
INSERT INTO staging.stg_forced VALUES (4, 'yew bowl');
INSERT INTO staging.stg_forced VALUES (5, 'fir bowl');
INSERT INTO staging.stg_forced VALUES (6, 'fig bowl');


--
-- Data for Name: stg_item; Type: TABLE DATA; Schema: staging; Owner: -
--

INSERT INTO staging.stg_item VALUES (1, 'red canvas tent', 5, '2026-01-01 12:00:00+00');
INSERT INTO staging.stg_item VALUES (2, 'blue rubber boots', 0, '2026-01-02 12:00:00+00');
INSERT INTO staging.stg_item VALUES (3, 'poison', 3, '2026-01-03 12:00:00+00');
INSERT INTO staging.stg_item VALUES (4, NULL, 1, '2026-01-04 12:00:00+00');
INSERT INTO staging.stg_item VALUES (5, 'red canvas tent', 2, '2026-01-05 12:00:00+00');
INSERT INTO staging.stg_item VALUES (6, 'A tent for three people with two doors. The poles are made of light metal and fold to half a metre. The floor is sewn to the walls, and keeps out rain that runs down a slope. Pegs, ropes and a bag are part of it.', 7, '2026-01-06 12:00:00+00');
INSERT INTO staging.stg_item VALUES (7, 'steel water bottle', 9, '2026-01-07 12:00:00+00');
INSERT INTO staging.stg_item VALUES (8, 'wool winter hat', 4, '2026-01-08 12:00:00+00');
INSERT INTO staging.stg_item VALUES (9, 'a letter that is to be forgotten', 8, '2026-01-09 12:00:00+00');
INSERT INTO staging.stg_item VALUES (10, 'folding camp chair', 6, '2026-01-10 12:00:00+00');


--
-- Data for Name: stg_lamp; Type: TABLE DATA; Schema: staging; Owner: -
--

INSERT INTO staging.stg_lamp VALUES ('00000000-0000-0000-0000-000000000001', 'brass desk lamp', '2026-01-02');
INSERT INTO staging.stg_lamp VALUES ('00000000-0000-0000-0000-000000000002', 'blue rubber boots', '2026-01-02');
INSERT INTO staging.stg_lamp VALUES ('00000000-0000-0000-0000-000000000003', 'paper lantern', '2026-01-05');
INSERT INTO staging.stg_lamp VALUES ('00000000-0000-0000-0000-000000000004', 'garden torch', NULL);
INSERT INTO staging.stg_lamp VALUES ('00000000-0000-0000-0000-000000000005', 'lamp of another age', '2999-01-01');


--
-- Data for Name: stg_shoe; Type: TABLE DATA; Schema: staging; Owner: -
--

INSERT INTO staging.stg_shoe VALUES ('a/1', 'trail runner', 'Hill');
INSERT INTO staging.stg_shoe VALUES ('a/2', 'rain boot', 'Pond');
INSERT INTO staging.stg_shoe VALUES ('a/3', 'sandal', NULL);
INSERT INTO staging.stg_shoe VALUES ('b-1', 'trail runner', 'Pond');
INSERT INTO staging.stg_shoe VALUES ('b-2', 'house slipper', 'Hearth');


--
-- Name: entities entities_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.entities
    ADD CONSTRAINT entities_pkey PRIMARY KEY (entity);


--
-- Name: erasures erasures_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.erasures
    ADD CONSTRAINT erasures_pkey PRIMARY KEY (entity, id);


--
-- Name: evictions evictions_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.evictions
    ADD CONSTRAINT evictions_pkey PRIMARY KEY (entity, text_hash);


--
-- Name: forced_lexemes forced_lexemes_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.forced_lexemes
    ADD CONSTRAINT forced_lexemes_pkey PRIMARY KEY (lexeme);


--
-- Name: forced_texts forced_texts_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.forced_texts
    ADD CONSTRAINT forced_texts_pkey PRIMARY KEY (id, chunk);


--
-- Name: forced_vectors_1 forced_vectors_1_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.forced_vectors_1
    ADD CONSTRAINT forced_vectors_1_pkey PRIMARY KEY (id, chunk) INCLUDE (text_hash);


--
-- Name: item_lexemes item_lexemes_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.item_lexemes
    ADD CONSTRAINT item_lexemes_pkey PRIMARY KEY (lexeme);


--
-- Name: item_texts item_texts_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.item_texts
    ADD CONSTRAINT item_texts_pkey PRIMARY KEY (id, chunk);


--
-- Name: item_vectors_1 item_vectors_1_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.item_vectors_1
    ADD CONSTRAINT item_vectors_1_pkey PRIMARY KEY (id, chunk) INCLUDE (text_hash);


--
-- Name: item_vectors_2 item_vectors_2_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.item_vectors_2
    ADD CONSTRAINT item_vectors_2_pkey PRIMARY KEY (id, chunk) INCLUDE (text_hash);


--
-- Name: lamp_lexemes lamp_lexemes_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.lamp_lexemes
    ADD CONSTRAINT lamp_lexemes_pkey PRIMARY KEY (lexeme);


--
-- Name: lamp_texts lamp_texts_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.lamp_texts
    ADD CONSTRAINT lamp_texts_pkey PRIMARY KEY (id, chunk);


--
-- Name: lamp_vectors_1 lamp_vectors_1_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.lamp_vectors_1
    ADD CONSTRAINT lamp_vectors_1_pkey PRIMARY KEY (id, chunk) INCLUDE (text_hash);


--
-- Name: quarantine quarantine_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (entity, id, chunk, vector_set);


--
-- Name: run_ledger run_ledger_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.run_ledger
    ADD CONSTRAINT run_ledger_pkey PRIMARY KEY (entity, run_id);


--
-- Name: shoe_lexemes shoe_lexemes_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.shoe_lexemes
    ADD CONSTRAINT shoe_lexemes_pkey PRIMARY KEY (lexeme);


--
-- Name: shoe_texts shoe_texts_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.shoe_texts
    ADD CONSTRAINT shoe_texts_pkey PRIMARY KEY (id, chunk);


--
-- Name: shoe_vectors_1 shoe_vectors_1_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.shoe_vectors_1
    ADD CONSTRAINT shoe_vectors_1_pkey PRIMARY KEY (id, chunk) INCLUDE (text_hash);


--
-- Name: vector_sets vector_sets_pkey; Type: CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.vector_sets
    ADD CONSTRAINT vector_sets_pkey PRIMARY KEY (entity, number);


--
-- Name: forced_texts_by_fingerprint; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX forced_texts_by_fingerprint ON analytics_features.forced_texts USING btree (fingerprint) WHERE (chunk = 0);


--
-- Name: forced_texts_by_partition; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX forced_texts_by_partition ON analytics_features.forced_texts USING btree (partition_key, id, chunk) INCLUDE (text_hash, tokens) WHERE (text_hash IS NOT NULL);


--
-- Name: forced_texts_by_term; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX forced_texts_by_term ON analytics_features.forced_texts USING gin (terms);


--
-- Name: forced_vectors_1_by_hash; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX forced_vectors_1_by_hash ON analytics_features.forced_vectors_1 USING btree (text_hash);


--
-- Name: forced_vectors_1_by_origin; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX forced_vectors_1_by_origin ON analytics_features.forced_vectors_1 USING btree (regexp_replace(reused_from, '/[0-9]+$'::text, ''::text)) WHERE (reused_from IS NOT NULL);


--
-- Name: forced_vectors_1_index; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX forced_vectors_1_index ON analytics_features.forced_vectors_1 USING hnsw (embedding public.vector_cosine_ops) WITH (m='16', ef_construction='64');


--
-- Name: item_texts_by_fingerprint; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX item_texts_by_fingerprint ON analytics_features.item_texts USING btree (fingerprint) WHERE (chunk = 0);


--
-- Name: item_texts_by_partition; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX item_texts_by_partition ON analytics_features.item_texts USING btree (partition_key, id, chunk) INCLUDE (text_hash, tokens) WHERE (text_hash IS NOT NULL);


--
-- Name: item_texts_by_term; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX item_texts_by_term ON analytics_features.item_texts USING gin (terms);


--
-- Name: item_vectors_1_by_9; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX item_vectors_1_by_9 ON analytics_features.item_vectors_1 USING btree (stock);


--
-- Name: item_vectors_1_by_hash; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX item_vectors_1_by_hash ON analytics_features.item_vectors_1 USING btree (text_hash);


--
-- Name: item_vectors_1_by_origin; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX item_vectors_1_by_origin ON analytics_features.item_vectors_1 USING btree (regexp_replace(reused_from, '/[0-9]+$'::text, ''::text)) WHERE (reused_from IS NOT NULL);


--
-- Name: item_vectors_1_index; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX item_vectors_1_index ON analytics_features.item_vectors_1 USING hnsw (embedding public.vector_cosine_ops) WITH (m='16', ef_construction='64');


--
-- Name: item_vectors_2_by_hash; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX item_vectors_2_by_hash ON analytics_features.item_vectors_2 USING btree (text_hash);


--
-- Name: item_vectors_2_by_origin; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX item_vectors_2_by_origin ON analytics_features.item_vectors_2 USING btree (regexp_replace(reused_from, '/[0-9]+$'::text, ''::text)) WHERE (reused_from IS NOT NULL);


--
-- Name: lamp_texts_by_fingerprint; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX lamp_texts_by_fingerprint ON analytics_features.lamp_texts USING btree (fingerprint) WHERE (chunk = 0);


--
-- Name: lamp_texts_by_partition; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX lamp_texts_by_partition ON analytics_features.lamp_texts USING btree (partition_key, id, chunk) INCLUDE (text_hash, tokens) WHERE (text_hash IS NOT NULL);


--
-- Name: lamp_texts_by_term; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX lamp_texts_by_term ON analytics_features.lamp_texts USING gin (terms);


--
-- Name: lamp_vectors_1_by_hash; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX lamp_vectors_1_by_hash ON analytics_features.lamp_vectors_1 USING btree (text_hash);


--
-- Name: lamp_vectors_1_by_origin; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX lamp_vectors_1_by_origin ON analytics_features.lamp_vectors_1 USING btree (regexp_replace(reused_from, '/[0-9]+$'::text, ''::text)) WHERE (reused_from IS NOT NULL);


--
-- Name: lamp_vectors_1_index; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX lamp_vectors_1_index ON analytics_features.lamp_vectors_1 USING hnsw (embedding public.halfvec_cosine_ops) WITH (m='16', ef_construction='64');


--
-- Name: shoe_texts_by_fingerprint; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX shoe_texts_by_fingerprint ON analytics_features.shoe_texts USING btree (fingerprint) WHERE (chunk = 0);


--
-- Name: shoe_texts_by_partition; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX shoe_texts_by_partition ON analytics_features.shoe_texts USING btree (partition_key, id, chunk) INCLUDE (text_hash, tokens) WHERE (text_hash IS NOT NULL);


--
-- Name: shoe_texts_by_term; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX shoe_texts_by_term ON analytics_features.shoe_texts USING gin (terms);


--
-- Name: shoe_vectors_1_by_hash; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX shoe_vectors_1_by_hash ON analytics_features.shoe_vectors_1 USING btree (text_hash);


--
-- Name: shoe_vectors_1_by_origin; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX shoe_vectors_1_by_origin ON analytics_features.shoe_vectors_1 USING btree (regexp_replace(reused_from, '/[0-9]+$'::text, ''::text)) WHERE (reused_from IS NOT NULL);


--
-- Name: shoe_vectors_1_index; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE INDEX shoe_vectors_1_index ON analytics_features.shoe_vectors_1 USING hnsw (embedding public.vector_cosine_ops) WITH (m='16', ef_construction='64');


--
-- Name: vector_sets_one_live; Type: INDEX; Schema: analytics_features; Owner: -
--

CREATE UNIQUE INDEX vector_sets_one_live ON analytics_features.vector_sets USING btree (entity) WHERE (state = 'live'::text);


--
-- Name: vector_sets vector_sets_entity_fkey; Type: FK CONSTRAINT; Schema: analytics_features; Owner: -
--

ALTER TABLE ONLY analytics_features.vector_sets
    ADD CONSTRAINT vector_sets_entity_fkey FOREIGN KEY (entity) REFERENCES analytics_features.entities(entity) ON DELETE CASCADE;


--
-- Name: TABLE item_embeddings; Type: ACL; Schema: analytics_features; Owner: -
--

GRANT SELECT ON TABLE analytics_features.item_embeddings TO PUBLIC;


--
-- PostgreSQL database dump complete
--



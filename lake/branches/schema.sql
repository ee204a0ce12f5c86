-- Branches, publishes and tags of a lake, as SQL over Iceberg's table of pointers.
--
-- `iceberg_tables` is Iceberg's own (JDBC catalog, schema V1): for each catalog, which is to say
-- branch, where each table's newest metadata file is. `lake` is what everybody reads. A branch is a
-- copy of the rows of `lake`; to publish it is to move the rows of `lake` that it changed.
--
-- Everything here can be run again. It is run as the owner of the database; roles are made before.

create table if not exists iceberg_tables (
    catalog_name varchar(255) not null,
    table_namespace varchar(255) not null,
    table_name varchar(255) not null,
    metadata_location varchar(1000),
    previous_metadata_location varchar(1000),
    iceberg_type varchar(5),
    primary key (catalog_name, table_namespace, table_name)
);

create table if not exists iceberg_namespace_properties (
    catalog_name varchar(255) not null,
    namespace varchar(255) not null,
    property_key varchar(255) not null,
    property_value varchar(1000),
    primary key (catalog_name, namespace, property_key)
);

create schema if not exists lake;

-- Every catalog but `lake`: branches, which their owners write; tags and pins, which nobody does.
create table if not exists lake.refs (
    name text primary key
    check (name ~ '^[a-z][a-z0-9_]{0,62}$' and name not in ('lake', 'system', 'spark_catalog')),
    kind text not null check (kind in ('branch', 'tag', 'pin')),
    owner text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz, -- null: kept until it is dropped
    publish_id bigint not null, -- what was published last when it began; 0 before the first
    location text, -- where a branch keeps the files of its new tables, below the bucket
    state text not null default '', -- of a run's branch: running, or why it failed
    check ((name ~ '^publish_[0-9]+$') = (kind = 'pin'))
);

-- A branch's pointers as they were when it began. No foreign key: it would be looked up for each
-- row, which is a third of what a branch of 10,000 tables costs; `drop_ref` removes them.
create table if not exists lake.bases (
    ref text not null,
    table_namespace text not null,
    table_name text not null,
    metadata_location text not null,
    primary key (ref, table_namespace, table_name)
);

alter table lake.bases drop constraint if exists bases_ref_fkey;
-- Where `lake.take` has moved the pointer to: the same table, whose new files are the branch's own.
alter table lake.bases add column if not exists taken text;

-- The object store's key of a branch: it may write and delete that branch's own files, and dies with it.
create table if not exists lake.keys (
    ref text primary key references lake.refs on delete cascade,
    access_key text not null,
    secret_key text not null
);

-- Keys that wait for a branch, each with a location that no other has. Who makes keys can do what any
-- of them can; so who makes branches need not make keys.
create table if not exists lake.ready_keys (
    location text primary key,
    access_key text not null,
    secret_key text not null,
    expires_at timestamptz not null
);

create table if not exists lake.publishes (
    id bigint primary key, -- 1, 2, 3, … in the order in which they became visible
    kind text not null check (kind in ('publish', 'rollback')),
    at timestamptz not null default clock_timestamp(),
    author text not null,
    code_version text, -- of the checkout that built it
    run_id text, -- the branch that was published
    lsn bigint, -- up to where bronze was complete for what was built
    restored bigint references lake.publishes, -- what a rollback went back to
    is_kept boolean not null default true, -- whether the files that it pointed to are kept
    manifest text, -- dbt's, of the project that built it
    complete_at timestamptz, -- when the source committed what is at `lsn`
    is_whole boolean not null default false -- whether all of `lake` is built up to `lsn`
);

-- Of lakes that were made before.
alter table lake.publishes add column if not exists complete_at timestamptz;
alter table lake.publishes add column if not exists is_whole boolean not null default false;
drop function if exists lake.publish(text, text, text, bigint, text);
drop function if exists lake.publish(text, text, text, bigint, text, timestamptz, boolean);
drop function if exists lake.publish(
    text, text, text, bigint, text, timestamptz, boolean, jsonb
);
drop function if exists lake.create_branch(text, text, interval, text, text, text);
drop function if exists lake.begin_publish(text, text, text, text, bigint, bigint);

-- What a publish did: `before` is null for a new table, `after` for a dropped one.
create table if not exists lake.moves (
    publish_id bigint not null references lake.publishes,
    table_namespace text not null,
    table_name text not null,
    before text,
    after text,
    primary key (publish_id, table_namespace, table_name)
);
create index if not exists moves_by_table
on lake.moves (table_namespace, table_name, publish_id);

-- Pointers of `lake` that maintenance replaced: after it the same rows stand in other files.
create table if not exists lake.rewrites (
    after text primary key,
    before text not null,
    table_namespace text not null,
    table_name text not null,
    at timestamptz not null default clock_timestamp()
);

-- Of pointers that maintenance made: the one that a build, or bulk load, made of the same rows.
create table if not exists lake.origins (
    pointer text primary key,
    origin text not null
);

create or replace function lake.origin(of_pointer text) returns text
language sql stable
as $$
    select coalesce((select origin from lake.origins where pointer = of_pointer), of_pointer)
$$;

create or replace function lake.note_rewrite() returns trigger
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    insert into lake.rewrites (after, before, table_namespace, table_name)
    values (
        new.metadata_location, old.metadata_location, old.table_namespace, old.table_name
    );
    insert into lake.origins values (new.metadata_location, lake.origin(old.metadata_location));
    return null;
end $$;

-- What tables were made of. A row is a fact about a pointer, and so holds wherever that pointer
-- goes, by a publish or a rollback: a model of this `fingerprint`, on models of such, as `lineage`
-- says of all of them, makes its rows of these inputs. A pointer that anything else than a build has
-- moved has no row.
create table if not exists lake.provenance (
    pointer text not null, -- an origin
    lineage text not null,
    fingerprint text not null,
    table_namespace text not null,
    table_name text not null,
    models jsonb not null, -- of each table that it reads and that not code alone decides, its origin
    landed jsonb not null, -- of each table of bronze that it reads, its origin
    lsn bigint not null, -- up to where it has the changes of those
    code_version text,
    run_id text not null, -- the branch that it was built on
    at timestamptz not null default clock_timestamp(),
    primary key (pointer, lineage)
);

-- Records that a branch's tables are what their models make of the branch's other tables, as they
-- are now. `made` is an array of objects, the models that others read first: table, lineage,
-- fingerprint, models (of each table that it reads, the lineage), inputs (those of them that not code
-- alone decides), landed (tables of bronze). What was built on a table of other code, or of unknown, is
-- recorded as little as that one.
create or replace function lake.record_provenance(
    branch text, made jsonb, lsn bigint, code_version text
) returns void
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    one jsonb;
    held jsonb := lake.origins_on(branch);
    here text;
begin
    perform lake.must_be(branch, 'branch');
    for one in select value from jsonb_array_elements(made) loop
        here := held ->> (one ->> 'table');
        if here is null or exists (
            select from jsonb_each_text(one -> 'models') as above (name, wanted)
            where not exists (
                select from lake.provenance as p
                where p.pointer = held ->> above.name and p.lineage = above.wanted
            )
        ) then
            continue;
        end if;
        insert into lake.provenance as p (
            pointer, lineage, fingerprint, table_namespace, table_name, models, landed, lsn,
            code_version, run_id
        )
        values (
            here, one ->> 'lineage', one ->> 'fingerprint',
            split_part(one ->> 'table', '.', 1), split_part(one ->> 'table', '.', 2),
            (
                select coalesce(jsonb_object_agg(name, held -> name), '{}')
                from jsonb_array_elements_text(one -> 'inputs') as name
            ),
            (
                select coalesce(jsonb_object_agg(name, held -> name), '{}')
                from jsonb_array_elements_text(one -> 'landed') as name
            ),
            record_provenance.lsn, record_provenance.code_version, branch
        )
        on conflict on constraint provenance_pkey do update
        set
            models = excluded.models, landed = excluded.landed, lsn = excluded.lsn,
            code_version = excluded.code_version, run_id = excluded.run_id, at = excluded.at;
    end loop;
end $$;

-- That tables, which nothing had changed for since, have all changes up to an LSN. `current` is an
-- array of objects: pointer, lineage.
create or replace function lake.extend_provenance(current jsonb, lsn bigint) returns void
language sql security definer set search_path = public, pg_temp
as $$
    update lake.provenance as p
    set lsn = greatest(p.lsn, extend_provenance.lsn)
    from jsonb_array_elements(current) as one
    where p.pointer = one ->> 'pointer' and p.lineage = one ->> 'lineage'
$$;

-- The origin of each table of a branch, or of `lake`, by its name.
create or replace function lake.origins_on(branch text) returns jsonb
language sql stable
as $$
    select coalesce(
        jsonb_object_agg(
            table_namespace || '.' || table_name,
            coalesce(origin, metadata_location)
        ),
        '{}'
    )
    from public.iceberg_tables
    left join lake.origins on pointer = metadata_location
    where catalog_name = branch
$$;

-- The tables of a branch that are not as they were when it began: `before` is null for a new one,
-- `after` for one that it has dropped.
create or replace function lake.changed(branch text)
returns table (table_namespace text, table_name text, before text, after text)
language sql stable
as $$
    select table_namespace, table_name, base.metadata_location, mine.metadata_location
    from (select * from public.iceberg_tables where catalog_name = branch) as mine
    full join (select * from lake.bases where ref = branch) as base
        using (table_namespace, table_name)
    where
        mine.metadata_location is distinct from coalesce(base.taken, base.metadata_location)
        and exists (select from lake.refs where name = branch and kind = 'branch')
$$;

-- Their names.
create or replace function lake.moved(branch text) returns table (name text)
language sql stable
as $$
    select table_namespace || '.' || table_name from lake.changed(branch)
$$;

-- Has a branch's pointer, which is still the one that the branch began with, be `taken`: the same
-- table, but that its new files will be the branch's own. Returns whether it was.
create or replace function lake.take(
    branch text, namespace text, name text, pointer text, taken text
) returns boolean
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    perform lake.must_be(branch, 'branch');
    update iceberg_tables as t
    set metadata_location = take.taken, previous_metadata_location = pointer
    where
        t.catalog_name = branch and t.table_namespace = namespace and t.table_name = name
        and t.table_namespace not in ('bronze', 'quality') and t.metadata_location = pointer;
    if not found then
        return false;
    end if;
    update lake.bases as base
    set taken = take.taken
    where
        base.ref = branch and base.table_namespace = namespace and base.table_name = name
        and base.metadata_location = pointer;
    if not found then
        raise exception using errcode = 'LK009', message = format(
            '%s.%s is not as branch `%s` began with it: it can''t be taken', namespace, name, branch
        );
    end if;
    insert into lake.origins values (take.taken, lake.origin(pointer));
    return true;
end $$;

-- What is wrong with the tables that a branch has moved, and with those that are made of them, if
-- models are what `project` says: an array as `made` above. A table that no model declares is
-- nobody's to judge.
create or replace function lake.unaccounted(branch text, project jsonb)
returns table (table_name text, why text)
language sql stable
as $$
    with recursive held as (
        select lake.origins_on(branch) as origins
    ),
    reached as (
        select name from lake.moved(branch)
        union
        select model ->> 'table'
        from jsonb_array_elements(project) as model
        inner join reached on model -> 'models' ? reached.name
    )
    select
        reached.name,
        case
            when held.origins ->> reached.name is null then 'is not there'
            when not exists (
                select from lake.provenance as p where p.pointer = held.origins ->> reached.name
            ) then 'has no record of a build: something else has written it'
            when fact.pointer is null then 'was built of other code than the project has now'
            else 'was built of other rows than the branch has now in ' || (
                select string_agg(above.name, ', ')
                from jsonb_each_text(fact.models) as above (name, origin)
                where above.origin is distinct from held.origins ->> above.name
            )
        end
    from held
    cross join reached
    inner join jsonb_array_elements(project) as model on model ->> 'table' = reached.name
    left join lake.provenance as fact
        on fact.pointer = held.origins ->> reached.name and fact.lineage = model ->> 'lineage'
    where
        fact.pointer is null
        or exists (
            select from jsonb_each_text(fact.models) as above (name, origin)
            where above.origin is distinct from held.origins ->> above.name
        )
    order by 1
$$;

-- What has passed its suite: a fact about a table's pointer and those of the tables that the suite
-- reads, which holds wherever they go.
create table if not exists lake.validations (
    pointer text not null, -- an origin
    suite text not null, -- a fingerprint
    table_namespace text not null,
    table_name text not null,
    beside jsonb not null, -- of each table that the suite reads, its origin
    findings jsonb not null,
    run_id text not null, -- the branch that was judged
    at timestamptz not null default clock_timestamp(),
    primary key (pointer, suite)
);

-- Pointers that were published without having passed, and why.
create table if not exists lake.exceptions (
    publish_id bigint not null references lake.publishes on delete cascade,
    pointer text not null, -- an origin
    table_namespace text not null,
    table_name text not null,
    reason text not null,
    at timestamptz not null default clock_timestamp(),
    primary key (publish_id, pointer)
);

-- `passed` is an array of objects: table, suite, pointer, beside, findings.
create or replace function lake.record_validations(branch text, passed jsonb) returns void
language sql security definer set search_path = public, pg_temp
as $$
    insert into lake.validations (
        pointer, suite, table_namespace, table_name, beside, findings, run_id
    )
    select
        one ->> 'pointer', one ->> 'suite',
        split_part(one ->> 'table', '.', 1), split_part(one ->> 'table', '.', 2),
        one -> 'beside', one -> 'findings', branch
    from jsonb_array_elements(passed) as one
    on conflict on constraint validations_pkey do update
    set
        beside = excluded.beside, findings = excluded.findings, run_id = excluded.run_id,
        at = excluded.at
$$;

-- Which tables of a branch, or of `lake`, have passed as they are now. `suites` is an array of
-- objects: table, suite.
create or replace function lake.validated(branch text, suites jsonb)
returns table (table_name text, findings jsonb, run_id text)
language sql stable
as $$
    with held as (
        select lake.origins_on(branch) as origins
    )
    select one ->> 'table', fact.findings, fact.run_id
    from held
    cross join jsonb_array_elements(suites) as one
    inner join lake.validations as fact
        on fact.pointer = held.origins ->> (one ->> 'table') and fact.suite = one ->> 'suite'
    where not exists (
        select from jsonb_each_text(fact.beside) as other (name, origin)
        where other.origin is distinct from held.origins ->> other.name
    )
$$;

-- The tables that have not passed the suite that `project` has for them, of those that a branch has
-- moved, and those that had passed it beside tables that it has moved. `project` is an array as
-- `made` above, with a suite, or null, in each.
create or replace function lake.unvalidated(branch text, project jsonb) returns setof text
language sql stable
as $$
    with held as materialized (
        select
            lake.origins_on(branch) as origins,
            array(select name from lake.moved(branch)) as moved
    )
    select one ->> 'table'
    from held
    cross join jsonb_array_elements(project) as one
    where
        one ->> 'suite' is not null
        and (
            one ->> 'table' = any(held.moved)
            or exists (
                select from lake.validations as fact
                where
                    fact.pointer = held.origins ->> (one ->> 'table')
                    and fact.beside ?| held.moved
            )
        )
    except
    select table_name from lake.validated(branch, project)
    order by 1
$$;

create or replace trigger note_rewrite after update on iceberg_tables
for each row when (current_user = 'maintenance') execute function lake.note_rewrite();

-- Whether a pointer holds the rows of an earlier one, maintenance alone having moved it since.
create or replace function lake.is_rewrite_of(pointer text, earlier text) returns boolean
language sql stable
as $$
    with recursive path as (
        select pointer as reached
        union
        select before from lake.rewrites join path on after = reached
    )
    select exists (select from path where reached = earlier)
$$;


-- The pointers of `lake` as they were after a publish. Tables that no later publish moved, bronze
-- among them, are as they are now.
create or replace function lake.state_at(publish bigint)
returns table (table_namespace text, table_name text, metadata_location text)
language sql stable
as $$
    select
        table_namespace,
        table_name,
        case when later.moved then later.before else now.metadata_location end
    from (
        select table_namespace, table_name, metadata_location
        from public.iceberg_tables
        where catalog_name = 'lake'
    ) as now
    full join (
        select distinct on (table_namespace, table_name)
            table_namespace,
            table_name,
            before,
            true as moved
        from lake.moves
        where publish_id > publish
        order by table_namespace, table_name, publish_id
    ) as later using (table_namespace, table_name)
    where case when later.moved then later.before else now.metadata_location end is not null
$$;


-- A new ref. One statement, and so one snapshot of the catalog: no publish shows by half.
create or replace function lake.create_ref(
    ref text, kind text, owner text, lifetime interval, location text, publish bigint
) returns void
language plpgsql
as $$
begin
    with source as materialized (
        select * from lake.state_at(publish)
    ),
    named as (
        insert into lake.refs (name, kind, owner, expires_at, publish_id, location)
        select
            ref, kind, owner, now() + lifetime,
            (select coalesce(max(id), 0) from lake.publishes where id <= publish),
            location
    ),
    copied as (
        insert into iceberg_tables (
            catalog_name, table_namespace, table_name, metadata_location, iceberg_type
        )
        select ref, table_namespace, table_name, metadata_location, 'TABLE' from source
    ),
    namespaces as (
        insert into iceberg_namespace_properties
        select ref, namespace, property_key, property_value
        from iceberg_namespace_properties
        where catalog_name = 'lake'
    )
    insert into lake.bases
    select ref, table_namespace, table_name, metadata_location from source
    where kind = 'branch';
exception
    when check_violation then
        raise exception using errcode = 'LK001', message = format(
            '`%s` is no name for a %s: use lower-case letters, digits and _, a letter first, '
            'and leave `publish_…` to pins', ref, kind
        );
    when unique_violation then
        raise exception using errcode = 'LK002', message = format(
            'there is a %s `%s` already: choose another name, or drop it first',
            (select r.kind from lake.refs as r where r.name = ref), ref
        );
end $$;

-- A branch of `lake` as it is now, with a key that was ready; returns whether one was.
create or replace function lake.create_branch(
    branch text, owner text, lifetime interval
) returns boolean
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    key lake.ready_keys;
begin
    delete from lake.ready_keys as ready
    where ready.location = (
        select one.location from lake.ready_keys as one
        where one.expires_at > now() + lifetime
        limit 1
        for update skip locked
    )
    returning * into key;
    if not found then
        return false;
    end if;
    perform lake.create_ref(
        branch, 'branch', owner, lifetime,
        format('%s/%s', key.location, branch), 9223372036854775807
    );
    insert into lake.keys values (branch, key.access_key, key.secret_key);
    return true;
end $$;

-- A name under which the lake, as it is now or was after a publish, stays as it is.
create or replace function lake.create_tag(tag text, owner text, publish bigint) returns void
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    perform lake.must_be_kept(publish);
    perform lake.create_ref(
        tag, 'tag', owner, null, null, coalesce(publish, 9223372036854775807)
    );
end $$;

-- `publish_<id>`: a publish, for readers of several tables. Of the last one, unless told otherwise.
-- It lives on for `lifetime` after it was last asked for.
create or replace function lake.pin(publish bigint, owner text, lifetime interval) returns text
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    pinned bigint := coalesce(publish, (select max(id) from lake.publishes), 0);
    ref text := 'publish_' || pinned;
begin
    perform lake.must_be_kept(publish);
    update lake.refs set expires_at = greatest(expires_at, now() + lifetime)
    where name = ref and kind = 'pin';
    if not found then
        begin
            perform lake.create_ref(ref, 'pin', owner, lifetime, null, pinned);
        exception when sqlstate 'LK002' then null; -- somebody else did, just now
        end;
    end if;
    return ref;
end $$;

create or replace function lake.must_be_kept(publish bigint) returns void
language plpgsql
as $$
begin
    if publish is not null
        and not exists (select from lake.publishes where id = publish and is_kept)
    then
        raise exception using errcode = 'LK003', message = format(
            'there is no publish %s, or its files are no longer kept: see `lake log`', publish
        );
    end if;
end $$;


-- As of which LSN of the source, and when, all of `lake` was built after a publish, the last one if
-- null: what the last whole run before it had of bronze. No row, or one of nulls, where none was.
create or replace function lake.reached(publish bigint)
returns table (lsn bigint, complete_at timestamptz)
language sql stable
as $$
    select lsn, complete_at from lake.publishes
    where is_whole and (publish is null or id <= publish)
    order by id desc
    limit 1
$$;


create or replace function lake.must_be_accounted(branch text, project jsonb) returns void
language plpgsql
as $$
declare
    unaccounted text;
begin
    select string_agg(table_name || ' ' || why, '; ') into unaccounted
    from lake.unaccounted(branch, project);
    if unaccounted is not null then
        raise exception using errcode = 'LK007', message = format(
            '%s: nothing was published; `lake --branch %s build` makes it what the project says',
            unaccounted, branch
        );
    end if;
end $$;

-- Publishing. Publishes come one after the other; each is one transaction. `whole` says that all of
-- the branch is built up to `built_lsn`. If it changed nothing, the last publish holds the same rows,
-- and so reaches as far. A table that has not passed its suite is refused unless a `reason` is given.
create or replace function lake.publish(
    branch text,
    author text,
    code_version text,
    built_lsn bigint,
    built_by text default null,
    built_at timestamptz default null,
    whole boolean default false,
    project jsonb default '[]',
    reason text default null
) returns bigint
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    publish bigint := lake.begin_publish(
        'publish', author, code_version, branch, null, built_lsn, built_at, whole
    );
    began_from bigint := (select publish_id from lake.refs where name = branch);
    not_passed text[];
begin
    if not exists (select from lake.refs where name = branch and kind = 'branch') then
        raise exception using errcode = 'LK004', message = format(
            'there is no branch `%s`: see `lake branch list`', branch
        );
    end if;
    perform lake.must_be_accounted(branch, project);
    not_passed := array(select lake.unvalidated(branch, project));
    if cardinality(not_passed) > 0 and reason is null then
        raise exception using errcode = 'LK008', message = format(
            '%s did not pass: nothing was published; see `lake --branch %s validate`',
            array_to_string(not_passed, ', '), branch
        );
    end if;
    insert into lake.exceptions
    select
        publish, held.origins ->> name,
        split_part(name, '.', 1), split_part(name, '.', 2), publish.reason
    from (select lake.origins_on(branch) as origins) as held
    cross join unnest(not_passed) as name;
    insert into lake.moves
    select publish, table_namespace, table_name, before, after from lake.changed(branch);
    insert into iceberg_namespace_properties
    select 'lake', namespace, property_key, property_value from iceberg_namespace_properties
    where catalog_name = branch
    on conflict do nothing;
    perform lake.drop_ref(branch);
    update lake.publishes set manifest = built_by where id = publish;
    if lake.apply_moves(publish) = 0 then
        delete from lake.publishes where id = publish;
        update lake.publishes set lsn = built_lsn, complete_at = built_at, is_whole = true
        where whole and id = began_from and id = publish - 1;
        return null;
    end if;
    return publish;
end $$;

-- That the last publish, if it still is that one, holds what all of the project makes of bronze up to
-- an LSN: nothing had to be built for it.
create or replace function lake.extend_publish(publish bigint, lsn bigint, at timestamptz)
returns void
language sql security definer set search_path = public, pg_temp
as $$
    select pg_advisory_xact_lock(hashtext('lake.publish'));
    update lake.publishes as p
    set lsn = extend_publish.lsn, complete_at = at, is_whole = true
    where p.id = publish and p.id = (select max(id) from lake.publishes)
$$;

-- Everything as it was after an earlier publish: itself a publish.
create or replace function lake.rollback(
    target bigint, author text, code_version text
) returns bigint
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    publish bigint;
begin
    perform lake.must_be_kept(target);
    select lake.begin_publish(
        'rollback', author, code_version, null, target, held.lsn, held.complete_at, true
    )
    into publish
    from (select) as one left join lake.reached(target) as held on true;
    perform lake.must_be_kept(target); -- it may have been forgotten while this waited
    update lake.publishes set manifest = lake.manifest_of(target) where id = publish;
    insert into lake.moves
    select publish, table_namespace, table_name, now.metadata_location, target_.metadata_location
    from (select * from iceberg_tables where catalog_name = 'lake') as now
    full join lake.state_at(target) as target_ using (table_namespace, table_name)
    where now.metadata_location is distinct from target_.metadata_location;
    if lake.apply_moves(publish) = 0 then
        delete from lake.publishes where id = publish;
        return null;
    end if;
    return publish;
end $$;

-- dbt's manifest of the project that built the lake as it was after a publish.
create or replace function lake.manifest_of(publish bigint) returns text
language sql stable
as $$
    select manifest from lake.publishes
    where id <= publish and manifest is not null
    order by id desc
    limit 1
$$;

create or replace function lake.begin_publish(
    kind text,
    author text,
    code_version text,
    run_id text,
    restored bigint,
    lsn bigint,
    complete_at timestamptz,
    is_whole boolean
) returns bigint
language sql
as $$
    select pg_advisory_xact_lock(hashtext('lake.publish'));
    insert into lake.publishes (
        id, kind, author, code_version, run_id, restored, lsn, complete_at, is_whole
    )
    select
        (select coalesce(max(id), 0) + 1 from lake.publishes),
        kind, author, code_version, run_id, restored, lsn, complete_at, is_whole
    returning id;
$$;

-- Move the pointers of `lake`, all or none; returns how many. A table whose pointer is no longer
-- where the publish found it is a conflict, unless maintenance alone has moved it. An engine that
-- commits at the same moment waits for the row, and then finds that its own change has lost; or the
-- other way round.
create or replace function lake.apply_moves(publish bigint) returns bigint
language plpgsql
as $$
declare
    moved bigint;
    conflicts text;
begin
    select string_agg(table_namespace || '.' || table_name, ', ' order by table_name)
    into conflicts
    from lake.moves
    where publish_id = publish and table_namespace in ('bronze', 'quality');
    if conflicts is not null then
        raise exception using errcode = 'LK005', message = format(
            '%s: bronze and quality are append-only and not published to: drop the branch',
            conflicts
        );
    end if;

    perform from iceberg_tables as l
    join lake.moves as m using (table_namespace, table_name)
    where m.publish_id = publish and l.catalog_name = 'lake'
    for update of l;

    update lake.moves as m
    set before = l.metadata_location
    from iceberg_tables as l
    where
        m.publish_id = publish
        and l.catalog_name = 'lake'
        and l.table_namespace = m.table_namespace
        and l.table_name = m.table_name
        and l.metadata_location <> m.before
        and lake.is_rewrite_of(l.metadata_location, m.before);

    select string_agg(m.table_namespace || '.' || m.table_name, ', ' order by m.table_name)
    into conflicts
    from lake.moves as m
    left join iceberg_tables as l
        on l.catalog_name = 'lake'
        and l.table_namespace = m.table_namespace
        and l.table_name = m.table_name
    where m.publish_id = publish and l.metadata_location is distinct from m.before;
    if conflicts is not null then
        raise exception using errcode = 'LK006', message = format(
            '%s moved on `lake` since this branch began; nothing was published: '
            'build it anew on a fresh branch', conflicts
        );
    end if;

    delete from iceberg_tables as l
    using lake.moves as m
    where
        m.publish_id = publish
        and m.after is null
        and l.catalog_name = 'lake'
        and l.table_namespace = m.table_namespace
        and l.table_name = m.table_name;

    insert into iceberg_tables as l (
        catalog_name, table_namespace, table_name,
        metadata_location, previous_metadata_location, iceberg_type
    )
    select 'lake', table_namespace, table_name, after, before, 'TABLE'
    from lake.moves
    where publish_id = publish and after is not null
    on conflict (catalog_name, table_namespace, table_name) do update
    set
        metadata_location = excluded.metadata_location,
        previous_metadata_location = excluded.previous_metadata_location;

    select count(*) into moved from lake.moves where publish_id = publish;
    return moved;
end $$;


create or replace function lake.drop_ref(ref text) returns void
language plpgsql
as $$
begin
    delete from lake.refs where name = ref;
    delete from lake.bases as base where base.ref = drop_ref.ref;
    delete from iceberg_tables where catalog_name = ref;
    delete from iceberg_namespace_properties where catalog_name = ref;
end $$;

create or replace function lake.drop_branch(branch text) returns void
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    perform lake.must_be(branch, 'branch');
    perform lake.drop_ref(branch);
end $$;

create or replace function lake.drop_tag(tag text) returns void
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    perform lake.must_be(tag, 'tag');
    perform lake.drop_ref(tag);
end $$;

create or replace function lake.must_be(ref text, wanted text) returns void
language plpgsql
as $$
begin
    if not exists (select from lake.refs where name = ref and kind = wanted) then
        raise exception using errcode = 'LK004', message = format(
            'there is no %s `%s`: see `lake %s list`', wanted, ref, wanted
        );
    end if;
end $$;

create or replace function lake.mark_branch(branch text, state text) returns void
language sql security definer set search_path = public, pg_temp
as $$
    update lake.refs as r set state = mark_branch.state where r.name = branch and r.kind = 'branch'
$$;

-- Refs whose time is over; returns their names.
create or replace function lake.drop_expired(at timestamptz) returns setof text
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    ref text;
begin
    -- No branch is dropped while its publish is under way.
    perform pg_advisory_xact_lock(hashtext('lake.publish'));
    -- In one statement, so that a pin that is being asked for again is left.
    for ref in delete from lake.refs where expires_at <= at returning name loop
        perform lake.drop_ref(ref);
        return next ref;
    end loop;
end $$;

-- Publishes that can't be rolled back to any more: old ones, but never the last `kept`. Returns how
-- many. To be called in a transaction of its own, after `drop_expired`.
create or replace function lake.forget_publishes(before timestamptz, kept bigint) returns bigint
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    forgotten bigint;
begin
    -- Waits for every tag and pin that has found its publish to be kept and is not committed yet.
    lock table lake.publishes in access exclusive mode;
    update lake.publishes set is_kept = false, manifest = null
    where is_kept and at < before and id <= (select max(id) - kept from lake.publishes);
    get diagnostics forgotten = row_count;
    return forgotten;
end $$;

-- Every pointer by which files may still come to be read, and who holds it. Of `lake` also those
-- that were replaced after `since`, which somebody may be reading, or copying, at this moment.
create or replace function lake.live_pointers(since timestamptz)
returns table (kind text, holder text, table_namespace text, table_name text, location text)
language sql stable security definer set search_path = public, pg_temp
as $$
    select
        coalesce(r.kind, 'lake'), t.catalog_name, t.table_namespace, t.table_name,
        t.metadata_location
    from iceberg_tables as t left join lake.refs as r on r.name = t.catalog_name
    union all
    select 'base', ref, table_namespace, table_name, metadata_location from lake.bases
    union all
    -- A publish held a table where the first move after it found it (see `state_at`); so each move
    -- keeps what it replaced for the publishes between the move before and itself.
    select
        case when exists (
            select from lake.publishes as p
            where p.is_kept and p.id >= m.first_id and p.id < m.publish_id
        ) then 'publish' else 'replaced' end,
        (m.publish_id - 1)::text, m.table_namespace, m.table_name, m.before
    from (
        select
            *,
            lag(publish_id, 1, 0::bigint) over (
                partition by table_namespace, table_name order by publish_id
            ) as first_id
        from lake.moves
    ) as m
    where
        m.before is not null
        and exists (
            select from lake.publishes as p
            where
                (p.is_kept and p.id >= m.first_id and p.id < m.publish_id)
                or (p.id = m.publish_id and p.at > since)
        )
    union all
    select 'replaced', 'lake', table_namespace, table_name, before
    from lake.rewrites
    where at > since
$$;

-- Rewrites that no branch and no reader began before, and what is known of pointers that nobody has
-- any more. The other rewrites tell publishes what is the same.
create or replace function lake.forget_rewrites(since timestamptz) returns void
language sql security definer set search_path = public, pg_temp
as $$
    delete from lake.rewrites
    where at <= least(since, (select min(created_at) from lake.refs where kind = 'branch'));
    with live as materialized (
        select location from lake.live_pointers(since)
    ),
    forgotten as (
        delete from lake.provenance
        where at <= since and pointer not in (select lake.origin(location) from live)
    ),
    forgotten_too as (
        delete from lake.validations
        where at <= since and pointer not in (select lake.origin(location) from live)
    )
    delete from lake.origins where pointer not in (select location from live)
$$;


-- Who may do what. Functions above that are `security definer` are the only way to move a pointer
-- of `lake`, but for bronze and quality; and the owner, whom no service works as.
revoke all on all functions in schema lake from public;
grant usage on schema lake to reader, builder, publisher, ingest, capture, recorder, maintenance;
grant select on all tables in schema public
to reader, builder, publisher, ingest, capture, recorder, maintenance;
grant select on
lake.refs, lake.bases, lake.publishes, lake.moves, lake.provenance, lake.origins, lake.validations,
lake.exceptions
to reader, builder, publisher, ingest, capture, recorder, maintenance;
grant select on lake.keys to builder;
grant select, insert, delete on lake.ready_keys to maintenance;
grant insert, update, delete on iceberg_tables, iceberg_namespace_properties to builder;
grant insert, update on iceberg_tables to ingest, recorder;
grant update on iceberg_tables to capture, maintenance;
grant execute on function
lake.state_at, lake.manifest_of, lake.reached, lake.origin, lake.origins_on, lake.changed, lake.moved,
lake.validated, lake.unvalidated, lake.unaccounted, lake.must_be_accounted
to reader, builder, publisher, maintenance;
grant execute on function lake.pin to reader, builder, publisher;
grant execute on function lake.create_branch, lake.drop_branch, lake.mark_branch to builder, publisher;
grant execute on function
lake.take, lake.record_provenance, lake.extend_provenance, lake.record_validations to builder;
grant execute on function lake.publish, lake.extend_publish, lake.rollback, lake.create_tag, lake.drop_tag to publisher;
grant execute on function
lake.drop_expired, lake.forget_publishes, lake.forget_rewrites, lake.live_pointers to maintenance;

alter table iceberg_tables enable row level security;
alter table iceberg_namespace_properties enable row level security;

drop policy if exists reading on iceberg_tables;
create policy reading on iceberg_tables for select using (true);
drop policy if exists reading on iceberg_namespace_properties;
create policy reading on iceberg_namespace_properties for select using (true);

drop policy if exists building on iceberg_tables;
create policy building on iceberg_tables to builder
using (
    table_namespace not in ('bronze', 'quality')
    and catalog_name in (select name from lake.refs where kind = 'branch')
)
with check (
    table_namespace not in ('bronze', 'quality')
    and catalog_name in (select name from lake.refs where kind = 'branch')
    and coalesce(iceberg_type, 'TABLE') = 'TABLE' -- a view can't be branched, judged or compacted
);
drop policy if exists building on iceberg_namespace_properties;
create policy building on iceberg_namespace_properties to builder
using (catalog_name in (select name from lake.refs where kind = 'branch'));

drop policy if exists ingesting on iceberg_tables;
create policy ingesting on iceberg_tables for insert to ingest
with check (catalog_name = 'lake' and table_namespace = 'bronze');
drop policy if exists ingesting_more on iceberg_tables;
create policy ingesting_more on iceberg_tables for update to ingest
using (catalog_name = 'lake' and table_namespace = 'bronze');

drop policy if exists recording on iceberg_tables;
create policy recording on iceberg_tables for insert to recorder
with check (catalog_name = 'lake' and table_namespace = 'quality');
drop policy if exists recording_more on iceberg_tables;
create policy recording_more on iceberg_tables for update to recorder
using (catalog_name = 'lake' and table_namespace = 'quality');

drop policy if exists capturing on iceberg_tables;
create policy capturing on iceberg_tables for update to capture
using (
    catalog_name = 'lake' and table_namespace = 'bronze'
    and table_name in ('changes', 'schema_changes')
);

drop policy if exists maintaining on iceberg_tables;
create policy maintaining on iceberg_tables for update to maintenance
using (catalog_name = 'lake');

"""Digests of the rows that a stage reads or may look up, from the footers of their shards."""

from types import ModuleType

from schemas.identity import fingerprint
from stages.pipeline.contract import Context


def data_digest(module: ModuleType, context: Context) -> str:
    """The digest of the rows that a reducing stage reads, from the footers of their shards."""
    contents = {}
    for table in module.READS:
        versions = context.store.versions(table) if table.accumulates else [context.versions[table.name]]
        contents[table.name] = [
            footer.content
            for version in versions
            for shard in context.store.shards(table, version)
            if (footer := context.store.footer(table, version, shard)) and footer.rows
        ]
    return fingerprint(contents)


def consulted_digest(module: ModuleType, context: Context) -> str | None:
    """The digest of what a stage may look up, so that what it refused is tried again once that changed."""
    tables = [table for table in getattr(module, "CONSULTS", ()) if table.name in context.versions]
    contents = {}
    for table in tables:
        version = context.versions[table.name]
        footers = [context.store.footer(table, version, shard) for shard in context.store.shards(table, version)]
        contents[table.name] = [footer.content for footer in footers if footer]
    return fingerprint(contents) if tables else None

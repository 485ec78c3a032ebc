"""The pipeline of a run: its stages in order, and the identity of each, which depends on the stages before it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, ModuleType

from schemas import Settings, Store, WeightsRef
from schemas.identity import canonical, fingerprint, stage_fingerprint, weights_fields
from schemas.storage.digests import add_digests
from schemas.tables import Table
from schemas.weights import LocalWeights, NotTrainedYet, WeightsLibrary, WeightsNotFetched
from stages.pipeline.contract import Context, Dependencies
from stages.pipeline.plans import ConfiguredStage


class Pipeline:
    """The stages of a recipe in order, and the identity of each.

    A fingerprint may depend on a model that an earlier stage has yet to train, so fingerprints are computed when they
    are asked for.

    Args:
        stages: all stages of the recipe, in order, whether or not they are to run.
        names: the stages that are to run; None for all.
        kept: by stage, versions that a stage keeps although the current code would write others.
    """

    def __init__(
        self,
        stages: Sequence[ConfiguredStage],
        settings: Settings,
        names: Collection[str] | None = None,
        kept: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.names = frozenset(self.stages if names is None else names)
        self.settings = settings
        self.store = Store(settings.store)
        self.library = WeightsLibrary(self.store, offline=settings.offline)
        self._fingerprints: dict[str, str] = {}
        self._dependencies: dict[str, Dependencies] = {}
        self._configs: dict[str, str] = {}
        self._held: dict[str, bool] = {}
        self._kept = dict(kept)

    def writer(self, table: Table) -> ConfiguredStage | None:
        """Return the stage that makes a table; None if no stage of the recipe does."""
        return next((stage for stage in self.stages.values() if table == stage.module.WRITES), None)

    def dependencies(self, name: str) -> Dependencies:
        """Return what affects a stage's rows: all that its Config and tables name, unless the stage says less.

        Raises:
            MissingWeights: this depends on weights that cannot be had.
        """
        stage = self.stages[name]
        if name in self._dependencies:
            return self._dependencies[name]
        if hasattr(stage.module, "dependencies"):
            dependencies: Dependencies = stage.module.dependencies(stage.config, self.weights)
            return dependencies
        return Dependencies(stage.config, getattr(stage.module, "CONSULTS", ()))

    def reads(self, name: str) -> tuple[Table, ...]:
        """Return the tables that a stage is made from: those of its READS that affect its rows.

        Raises:
            NotTrainedYet: this depends on a model that is still to be trained.
        """
        return self._reads(name, self.dependencies(name))

    def _reads(self, name: str, dependencies: Dependencies) -> tuple[Table, ...]:
        return self.stages[name].module.READS if dependencies.reads is None else dependencies.reads

    def fetch(self, names: Sequence[str]) -> None:
        """Fetch the published weights that stages need before any work begins.

        Raises:
            MissingWeights: some cannot be found or fetched; the message names all that are missing.
        """
        fields: dict[WeightsRef, str] = {}
        perhaps: dict[WeightsRef, str] = {}
        waiting, known = list(names), set(names)
        for name in waiting:
            named = weights_fields(self.stages[name].config, name)
            try:
                dependencies = self.dependencies(name)
                wanted, tables = weights_fields(dependencies.config, name), self._versioned(name, dependencies)
            except NotTrainedYet:
                wanted, tables = named, []
            except WeightsNotFetched as error:  # what else the stage needs is known once these are there
                wanted = {reference: field for reference, field in named.items() if reference in error.references}
                perhaps = {name: field for name, field in named.items() if name in error.perhaps} | perhaps
                wanted, tables = wanted or named, []
                self.library.offline = True  # wait only once for a host that cannot be reached
            fields |= {reference: field for reference, field in wanted.items() if reference not in fields}
            # The versions of the tables that it reads depend on weights too, whether or not these tables are made now.
            upstream = {writer.name: None for table in tables if (writer := self.writer(table)) is not None}
            waiting += [name for name in upstream if name not in known]
            known |= upstream.keys()
        try:
            self.library.fetch_all(fields, perhaps)
        except WeightsNotFetched as error:
            raise error.of_fields(perhaps | fields) from error

    def fingerprint(self, name: str) -> str:
        """Return the version that a stage writes.

        Raises:
            NotTrainedYet: it depends on a model that is still to be trained.
            MissingWeights: it depends on weights that cannot be had.
        """
        if name not in self._fingerprints:
            stage, dependencies = self.stages[name], self.dependencies(name)
            config = dependencies.config
            fields = weights_fields(config, name)
            try:
                digests: dict[str, str] = {reference: self.weights(reference).digest for reference in fields}
            except WeightsNotFetched as error:
                raise error.of_fields(fields) from error
            version = stage_fingerprint(name, stage.module.VERSION, config, digests, self.versions(name))
            self._configs[name] = canonical(config, digests)
            self._dependencies[name] = dependencies  # as they entered the fingerprint, which is final from now on
            self._set_fingerprint(name, self._kept.get(name, version))
        return self._fingerprints[name]

    def keep(self, name: str, version: str) -> None:
        """Let a stage keep a version of its table; stages that read the table then read this version."""
        self._kept[name] = version
        self._set_fingerprint(name, version)

    def _set_fingerprint(self, name: str, version: str) -> None:
        self._fingerprints[name] = version
        for kind in getattr(self.stages[name].module, "KINDS", ()):
            self.library.recipes[kind] = version

    def config(self, name: str) -> str:
        """Return the configuration of a stage as canonical JSON, with the digests of the weights that it names.

        Raises:
            MissingWeights: it names weights that cannot be had.
        """
        self.fingerprint(name)
        return self._configs[name]

    def weights(self, reference: WeightsRef) -> LocalWeights:
        """Return weights by name; `checkpoint:<kind>` means this recipe's own model if a stage of the run trains it."""
        kind = reference.checkpoint
        trainer = next((stage for stage in self.stages.values() if kind in getattr(stage.module, "KINDS", ())), None)
        if trainer:
            self.fingerprint(trainer.name)
        try:
            return self.library.get(reference)
        except NotTrainedYet as error:
            if not trainer:
                raise
            raise NotTrainedYet(f"{error} (the stage {trainer.name})", trainer.name) from error

    def versions(self, name: str) -> dict[str, str]:
        """Return the version of each table that a stage reads or consults (tables that accumulate have none)."""
        versions = {}
        for table in self._versioned(name, self.dependencies(name)):
            if (stage := self.writer(table)) is not None:
                versions[table.name] = self.fingerprint(stage.name)
        return versions

    def _versioned(self, name: str, dependencies: Dependencies) -> list[Table]:
        """Return the tables that a stage reads or consults in one version. Optional tables are included only if they
        exist or this run makes them: the version of an absent one may depend on weights that nobody has."""
        optional = getattr(self.stages[name].module, "OPTIONAL", ())
        return [
            table
            for table in (*self._reads(name, dependencies), *dependencies.consults)
            if not table.accumulates and (table not in optional or self._is_held(table))
        ]

    def _is_held(self, table: Table) -> bool:
        """Return whether the store holds a table or this run makes it. The answer stays the same for this pipeline."""
        if table.name not in self._held:
            stage = self.writer(table)
            is_made = stage is not None and stage.name in self.names
            self._held[table.name] = is_made or bool(self.store.versions(table))
        return self._held[table.name]

    def check_inputs(self, names: Sequence[str]) -> None:
        """Check that every table that a run of the stages `names` reads exists or is made by one of them.

        Raises:
            ValueError: a table neither exists nor is made.
        """
        for name in names:
            try:
                reads = self.reads(name)
            except NotTrainedYet:
                reads = self.stages[name].module.READS
            for table in reads:
                writer = self.writer(table)
                optional = table in getattr(self.stages[name].module, "OPTIONAL", ())
                if writer is None or writer.name in names or optional or table.accumulates:
                    continue
                try:
                    version = self.fingerprint(writer.name)
                except NotTrainedYet:
                    version = "of a model that is still to be trained"
                if not self.store.shards(table, version):
                    raise ValueError(
                        f"expected the table {table.name} (version {version}) for {name}, got nothing in "
                        f"{self.store.url}: run {writer.name} first, or in one run, with the same preset and settings"
                    )

    def context(self, name: str, run_id: str) -> Context:
        """Return the context of one stage of a run."""
        version = self.fingerprint(name)
        versions, config = self.versions(name), self.config(name)
        context = Context(self.store, self.settings, run_id, name, version, versions, self.library, config)
        if hasattr(self.stages[name].module, "reduce"):
            context = replace(context, data_columns=self.dependencies(name).columns)
            digest = data_digest(self.stages[name].module, context)
            context = replace(context, data_digest=digest, identity=fingerprint({"recipe": version, "data": digest}))
        return context

    def upstream(self, name: str) -> ConfiguredStage | None:
        """Return the stage that makes the driving table of this stage, or the files that it reads; None if there is
        none."""
        stage = self.stages[name]
        return self.writer(stage.module.READS[0]) if stage.module.READS else self.stages.get(stage.after or "")


def data_digest(module: ModuleType, context: Context) -> str:
    """Return the digest of the rows that a reducing stage reads. It is computed from the footers of their shards and
    does not depend on how the rows are spread over shards. For a table that `context.data_columns` does not name, all
    columns that are part of its identity count."""
    store, contents = context.store, {}
    for table in module.READS:
        if not table.accumulates and table.name not in context.versions:
            continue  # the stage does not read it in this configuration
        versions = store.versions(table) if table.accumulates else [context.versions[table.name]]
        digests = add_digests(
            store.column_digests(table, version, shard)
            for version in versions
            for shard in store.shards(table, version)
        )
        chosen = context.data_columns.get(table.name, table.identity or table.schema.names)
        contents[table.name] = {name: digests[name] for name in chosen if name in digests}
    return fingerprint(contents)

"""What a run says on an item of a checklist: a function for each fact, empty where the run says nothing."""

from __future__ import annotations

from collections.abc import Callable

from casewise.plugins.checklist import data_facts as data
from casewise.plugins.checklist import model_facts as models
from casewise.plugins.checklist import result_facts as results
from casewise.report.context import ReportContext

# The facts that a run can state, and the section of the report where each stands.
SECTIONS: dict[str, tuple[Callable[[ReportContext], str], ...]] = {
    "training": (
        *(data.preparation, data.predictors, data.partition, data.disjointness, data.software),
        *(models.networks, models.first_weights, models.fitting, models.building),
    ),
    "labels": (models.imbalance, models.output),
    "learners": (models.selection, models.ensembles, models.prediction),
    "glossary": (results.measures, results.measures_and_plots),
    "summary": (
        *(results.uncertainty, results.performance, results.performance_inside, results.performance_by_partition),
        models.full_model,
    ),
    "subgroups": (results.performance_by_group, results.subgroups, results.variability),
    "participants": (
        *(data.missing_data, data.flow, data.exclusions, data.characteristics, data.data_outside, data.devices),
        data.analyses,
    ),
    "classes": (results.cross_table,),
    "external": (results.external_cohort,),
    "altered-images": (results.robustness,),
    "left-out": (results.sites,),
    "agreement": (results.readers,),
    "saliency": (results.saliency,),
}
FACTS = {write.__name__: (section_id, write) for section_id, writers in SECTIONS.items() for write in writers}

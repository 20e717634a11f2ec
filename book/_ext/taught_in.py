"""Which chapter teaches what: the API pages end the text of every function and
class with it.

A name that is not listed is taught where what holds it is: ``transport`` says
where ``transport.transport_plan`` is.
"""

TAUGHT_IN = {
    "graph": ["metric_tensor"],
    "data": ["discrete_ot"],
    "data.load": ["discrete_ot", "training"],
    "transport": ["discrete_ot"],
    "transport.displacement_interpolation": ["interpolation"],
    "transport.euclidean_interpolation": ["interpolation"],
    "transport.fixed_distance_interpolate": ["interpolation"],
    "metric": ["metric_tensor"],
    "metric.Source": ["blind_direction"],
    "metric.fit_ground_metric": ["ground_metric"],
    "metric.log_likelihood": ["ground_metric"],
    "metric.mean_diagonal": ["fast_penalty"],
    "noise": ["wasserstein_noise"],
    "calculus": ["riemannian_calculus"],
    "kernels": ["fast_penalty"],
    "regularizer": ["fast_penalty"],
    "regularizer.SecondOrder": ["theorem_one"],
    "regularizer.first_order_expansion": ["theorem_one"],
    "regularizer.perturbed_loss": ["theorem_one"],
    "regularizer.second_order_expansion": ["theorem_one"],
    "models": ["training"],
    "models.enresnet20": ["claims"],
    "models.enresnet8": ["claims"],
    "attacks": ["training"],
    "attacks.project_to_wasserstein_ball": ["transport_ball"],
    "attacks.projected_sinkhorn_attack": ["transport_ball"],
    "evaluation": ["training"],
    "evaluation.CurvatureSums": ["certificate"],
    "evaluation.Curvatures": ["certificate"],
    "evaluation.RobustRadius": ["certificate"],
    "evaluation.SmallestAttack": ["certificate"],
    "evaluation.SoftplusBounds": ["certificate"],
    "evaluation.curvature_sums": ["certificate"],
    "evaluation.curvatures": ["certificate"],
    "evaluation.robust_radius": ["certificate"],
    "evaluation.smallest_attack": ["certificate"],
    "evaluation.softplus_bounds": ["certificate"],
    "evaluation.translated_labels": ["natural_variation"],
    "training": ["training"],
    "study": ["adversarial"],
    "study.across_seeds": ["training"],
    "study.choose": ["training"],
    "study.stored": ["discrete_ot"],
    "study.summary": ["discrete_ot"],
    "book": ["discrete_ot"],
    "book.adversarial": ["adversarial"],
    "book.blind_direction": ["blind_direction"],
    "book.beyond": ["beyond"],
    "book.box_sums": ["fast_penalty"],
    "book.certificate": ["certificate"],
    "book.claims": ["claims"],
    "book.critic": ["critic"],
    "book.fast_penalty": ["fast_penalty"],
    "book.figure2": ["natural_variation"],
    "book.gradients": ["training"],
    "book.ground_metric": ["ground_metric"],
    "book.interpolation": ["interpolation"],
    "book.laplace_beltrami": ["laplace_beltrami"],
    "book.live.ask_three": ["training"],
    "book.live.draw_two": ["discrete_ot"],
    "book.live.move_photograph": ["natural_variation"],
    "book.metric_tensor": ["metric_tensor"],
    "book.natural_variation": ["natural_variation"],
    "book.peers": ["claims"],
    "book.pixel_graph": ["metric_tensor"],
    "book.plots.image_grid": ["interpolation"],
    "book.plots.seed_dots": ["training"],
    "book.plots.show_change": ["metric_tensor"],
    "book.results": ["results"],
    "book.riemannian_calculus": ["riemannian_calculus"],
    "book.smoothness": ["natural_variation"],
    "book.sprint": ["blind_direction", "transport_ball"],
    "book.tables.mean_sd": ["natural_variation"],
    "book.tables.percent": ["adversarial"],
    "book.theorem_one": ["theorem_one"],
    "book.tradeoff": ["claims"],
    "book.training": ["training"],
    "book.trial": ["adversarial"],
    "book.units": ["adversarial"],
    "book.verdict": ["intro"],
    "book.transport_ball": ["transport_ball"],
    "book.wasserstein_noise": ["wasserstein_noise"],
}


def chapters(name):
    """Where the object of a dotted name below ``wdtr_lite`` is taught."""
    while name and name not in TAUGHT_IN:
        name = name.rpartition(".")[0]
    return TAUGHT_IN.get(name, [])


def add_chapters(app, what, name, member, options, lines):
    taught = chapters(name.removeprefix("wdtr_lite."))
    if taught and lines and what in ("function", "class", "exception"):
        links = " and ".join(f":doc:`/book/{chapter}`" for chapter in taught)
        lines += ["", f"Taught in {links}.", ""]


def setup(app):
    app.connect("autodoc-process-docstring", add_chapters, priority=900)
    return {"parallel_read_safe": True}

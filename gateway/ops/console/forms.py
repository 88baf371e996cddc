"""Forms of the console: what was typed, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.ops.bodies import Fields
from gateway.ops.console.operator import Operator
from gateway.ops.console.tables import Texts, errors_of
from gateway.pages.request import PageRequest
from models.refusals import Conflict, Forbidden, InvalidFields


@dataclass(frozen=True, slots=True)
class FormState:
    """What stands in a form and what is wrong with it, by field. ``status`` is the status code of the page."""

    typed: Texts = field(default_factory=Texts)
    errors: Texts = field(default_factory=Texts)
    status: int = 200

    def value(self, name: str, default: object = "") -> str:
        """Return what was typed into a field, or ``default`` if the form has not been sent."""
        return self.typed.get(name, str(default))


EMPTY = FormState()


def form_fields(request: PageRequest) -> Fields:
    """Return the fields of the form that was sent, to be checked. Empty ones count as absent.

    :raises MalformedRequest: if the body is not a form.
    """
    return Fields({name: request.field(name) for name in request.form if request.field(name).strip()})


def refused_form(request: PageRequest, refusal: InvalidFields | Conflict) -> FormState:
    """Return the form as it was sent, with the errors. A conflict is an error of the form as a whole."""
    typed = Texts((name, request.field(name)) for name in request.form)
    errors = errors_of(refusal)
    if isinstance(refusal, Conflict):
        errors = Texts(form=errors["detail"])
    return FormState(typed, errors, refusal.status)


def require_may_change(operator: Operator) -> None:
    """Require that the operator may change something, before a form is shown.

    :raises Forbidden: if the operator is a viewer.
    """
    if not operator.may_change:
        raise Forbidden("Viewers cannot change anything. Log in with an operator's token.")

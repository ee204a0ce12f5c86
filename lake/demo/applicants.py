"""Applicants and what they ask for, drawn from a joint distribution fitted to the real data set.

The draw follows the causes: age, home and income first, then the loan, then what the lender made of
it. The real data's dirt is in it too: about nine rows in 45,000 have an age that nobody reaches.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Columns = dict[str, Array]
"""The 14 columns of the data set, as arrays of one length."""

DIRT = 2e-4  # share of rows with an impossible age

AGES, AGE_MIDDLE, AGE_SPREAD = (20, 78), 6.4, 0.67  # years above the youngest, log-normal
EDUCATION = ("High School", "Associate", "Bachelor", "Master", "Doctorate")
EDUCATION_BY_AGE = (  # up to 24, 25 to 35, older
    (0.298, 0.254, 0.296, 0.152, 0.0),
    (0.228, 0.263, 0.325, 0.167, 0.017),
    (0.362, 0.330, 0.158, 0.103, 0.047),
)
SCORE = np.array([617.6, 627.7, 638.1, 646.8, 658.0])  # by education, at 27 years

HOMES = {"RENT": 0.521, "MORTGAGE": 0.411, "OWN": 0.0655, "OTHER": 0.0025}
INCOME = {"RENT": -0.19, "MORTGAGE": 0.235, "OWN": -0.21, "OTHER": 0.06}  # log, from the middle
RATE = {"RENT": 0.3, "MORTGAGE": -0.45, "OWN": -0.25, "OTHER": 1.0}  # points, from the middle
MIDDLE_INCOME, MIDDLE_AMOUNT = 11.12, 8.94  # of the logarithms

INTENTS = ("EDUCATION", "MEDICAL", "VENTURE", "PERSONAL", "DEBTCONSOLIDATION", "HOMEIMPROVEMENT")
INTENT_BY_AGE = (
    (0.268, 0.182, 0.178, 0.163, 0.156, 0.053),
    (0.174, 0.193, 0.171, 0.167, 0.162, 0.133),
    (0.163, 0.195, 0.172, 0.182, 0.153, 0.135),
)

DEFAULTED: Mapping[str, float] = {  # log-odds that a default is on file
    "": 0.59,
    "income": 0.33,
    "rate": -0.05,
    "rate over 14": -0.77,
    "burden": -0.56,
    "burden over 25": -1.32,
    "score": -0.43,
    "RENT": -0.3,
    "OWN": 0.43,
    "OTHER": -0.52,
    "MEDICAL": -0.24,
    "DEBTCONSOLIDATION": -0.36,
    "HOMEIMPROVEMENT": -0.34,
    "PERSONAL": -0.15,
    "VENTURE": 0.08,
}
APPROVED: Mapping[str, float] = {  # log-odds of approval where no default is on file
    "": -1.75,
    "income": -1.22,
    "rate": 0.22,
    "rate over 14": 1.23,
    "burden": 2.06,
    "burden over 25": 2.33,
    "score": -0.44,
    "RENT": 0.62,
    "OWN": -1.78,
    "OTHER": 0.58,
    "MEDICAL": 0.64,
    "DEBTCONSOLIDATION": 0.93,
    "HOMEIMPROVEMENT": 1.0,
    "PERSONAL": 0.21,
    "VENTURE": -0.35,
}


def draw(rng: np.random.Generator, count: int) -> Columns:
    """`count` applicants; `loan_status` is what the lender will decide: 1 approved, 0 refused."""
    lowest, highest = AGES
    age = lowest + np.floor(rng.lognormal(np.log(AGE_MIDDLE), AGE_SPREAD, count)).astype(int)
    age = np.minimum(age, highest)
    worked = np.maximum(age - 22 + np.rint(rng.normal(-0.65, 2.05, count).clip(-8, 4)), 0)
    home = rng.choice(list(HOMES), count, p=list(HOMES.values()))
    income = _incomes(rng, age, home)
    dirty = rng.random(count) < DIRT
    age = np.where(dirty, rng.choice([94, 109, 116, 123, 144], count), age)
    worked = np.where(dirty, age - rng.integers(18, 25, count), worked)
    rich = dirty & (rng.random(count) < 0.4)
    income = np.where(rich, rng.integers(5_400_000, 7_300_000, count), income)

    education = _choose(rng, age, EDUCATION_BY_AGE)
    intent = np.array(INTENTS)[_choose(rng, age, INTENT_BY_AGE)]
    amount = _amounts(rng, income)
    rate = _rates(rng, home, amount)
    score = _scores(rng, age, education)
    burden = np.round(amount / income, 2)

    traits = _traits(income, rate, burden, score, home, intent)
    defaulted = rng.random(count) < _probability(DEFAULTED, traits)
    approved = ~defaulted & (rng.random(count) < _probability(APPROVED, traits))
    return {
        "person_age": age,
        "person_gender": rng.choice(["male", "female"], count, p=[0.552, 0.448]),
        "person_education": np.array(EDUCATION)[education],
        "person_income": income,
        "person_emp_exp": worked.astype(int),
        "person_home_ownership": home,
        "loan_amnt": amount,
        "loan_intent": intent,
        "loan_int_rate": rate,
        "loan_percent_income": burden,
        "cb_person_cred_hist_length": _credit_years(rng, age),
        "credit_score": score,
        "previous_loan_defaults_on_file": defaulted,
        "loan_status": approved.astype(int),
    }


def _choose(rng: np.random.Generator, age: Array, shares: tuple[tuple[float, ...], ...]) -> Array:
    """An index for each age, by the shares of its age group."""
    sums = np.cumsum(shares, axis=1)[np.digitize(age, [25, 36])]
    group: Array = (rng.random(len(age))[:, None] * sums[:, -1:] >= sums).sum(axis=1)
    return group


def _look_up(table: Mapping[str, float], keys: Array) -> Array:
    found: Array = np.select([keys == key for key in table], list(table.values()))
    return found


def _incomes(rng: np.random.Generator, age: Array, home: Array) -> Array:
    """Whole yearly incomes: log-normal, with the long tail that lenders see."""
    log = MIDDLE_INCOME + _look_up(INCOME, home) + 0.13 * (np.log(age - 18.5) - 2.0)
    log += rng.normal(0, 0.485, len(age))
    log += (rng.random(len(age)) < 0.03) * rng.exponential(0.7, len(age))
    income: Array = np.rint(np.exp(log).clip(8_000, 2_500_000))
    return income


def _amounts(rng: np.random.Generator, income: Array) -> Array:
    """Amounts asked for: more with income, at most 35,000, mostly round."""
    log = MIDDLE_AMOUNT + 0.53 * (np.log(income) - MIDDLE_INCOME)
    exact = np.exp(log + rng.normal(0, 0.66, len(income))).clip(500, 35_000)
    exact = np.minimum(exact, rng.normal(0.36, 0.08, len(income)).clip(0.2, 0.64) * income)
    step = rng.choice([1000, 500, 100, 25, 1], len(income), p=[0.56, 0.09, 0.14, 0.07, 0.14])
    amount: Array = (np.rint(exact / step) * step).clip(500, 35_000)
    return amount


def _rates(rng: np.random.Generator, home: Array, amount: Array) -> Array:
    """Yearly rates in per cent; about half stand on a price list, one in fourteen is the middle."""
    exact = 10.95 + _look_up(RATE, home) + 0.55 * (np.log(amount) - MIDDLE_AMOUNT)
    exact += rng.normal(0, 3.1, len(home))
    listed = np.where(rng.random(len(home)) < 0.5, np.rint(exact * 2) / 2 - 0.01, exact)
    rate = np.where(rng.random(len(home)) < 0.066, 11.01, listed)
    return np.round(rate.clip(5.42, 20.0), 2)


def _scores(rng: np.random.Generator, age: Array, education: Array) -> Array:
    """Credit scores, skewed to the left; better with education and age."""
    skewed = (8 - rng.gamma(8, 1, len(age))) / np.sqrt(8)
    score = SCORE[education] + 1.5 * (np.minimum(age, 60) - 27) + 48.5 * skewed
    whole: Array = np.rint(score.clip(390, 850)).astype(int)
    return whole


def _credit_years(rng: np.random.Generator, age: Array) -> Array:
    """Years of credit history, which the real data gives in four steps of age."""
    step = np.digitize(age, [27, 36, 51])
    low, high = np.array([2, 5, 11, 18])[step], np.array([4, 10, 17, 30])[step]
    years = rng.integers(low, high, endpoint=True)
    odd = rng.random(len(age)) < 0.03
    at_least_two: Array = np.maximum(years + odd * rng.integers(-2, 3, len(age)), 2)
    return at_least_two


def _traits(
    income: Array, rate: Array, burden: Array, score: Array, home: Array, intent: Array
) -> Columns:
    """What the lender looks at, by the names that the log-odds use."""
    measures = {
        "": np.ones(len(income)),
        "income": np.log(income) - MIDDLE_INCOME,
        "rate": rate - 11,
        "rate over 14": rate > 14,
        "burden": burden - 0.14,
        "burden over 25": burden >= 0.25,
        "score": (score - 632) / 50,
    }
    labels = {name: home == name for name in HOMES} | {name: intent == name for name in INTENTS}
    return measures | labels


def _probability(weights: Mapping[str, float], traits: Columns) -> Array:
    log_odds = np.sum([weight * traits[name] for name, weight in weights.items()], axis=0)
    probability: Array = 1 / (1 + np.exp(-log_odds))
    return probability

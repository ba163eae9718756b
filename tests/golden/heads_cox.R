# Golden values of Cox models with Efron ties, from R's survival package, on its own data.
# Usage: Rscript heads_cox.R heads_cox.json
suppressPackageStartupMessages({
  library(survival)
  library(jsonlite)
})

values <- function(fit, at) {
  baseline <- basehaz(fit, centered = FALSE)
  shown <- unique(round(seq(1, nrow(baseline), length.out = 25)))
  list(
    coefficients = unname(coef(fit)),
    covariance = unname(vcov(fit)),
    log_likelihood = fit$loglik[2],
    n_events = fit$nevent,
    expected_minus_event = unname(-residuals(fit, "martingale")),
    baseline = list(time = baseline$time[shown], hazard = baseline$hazard[shown]),
    fixed = list(
      coefficients = unname(coef(at)),
      log_likelihood = at$loglik[2],
      expected_minus_event = unname(-residuals(at, "martingale"))
    )
  )
}

both <- function(formula, data, fixed) {
  environment(formula) <- environment() # basehaz and residuals look for 'data' there
  exact <- coxph.control(eps = 1e-12, toler.chol = 1e-13, iter.max = 50)
  values(
    coxph(formula, data, ties = "efron", control = exact),
    coxph(formula, data, ties = "efron", init = fixed, control = coxph.control(iter.max = 0))
  )
}

complete <- lung[!is.na(lung$ph.ecog), ]
complete$month <- ceiling(complete$time / 30.4375) # many ties
out <- list(
  lung = both(Surv(time, status == 2) ~ age + sex + ph.ecog, complete, c(0.05, -2, 1.5)),
  lung_monthly = both(Surv(month, status == 2) ~ age + sex + ph.ecog, complete, c(0.05, -2, 1.5)),
  heart = both(Surv(start, stop, event) ~ age + year + surgery, heart, c(0.2, -1, 2)),
  version = paste("survival", packageVersion("survival"), R.version.string)
)
write_json(out, commandArgs(TRUE)[1], digits = 15, auto_unbox = TRUE, pretty = TRUE)

# Golden values of meta-analysis and standardised differences.
# Usage: Rscript shift.R FOLDER OUT.json (FOLDER as written by shift_cases.py)
suppressPackageStartupMessages({
  library(metafor)
  library(jsonlite)
})
arguments <- commandArgs(trailingOnly = TRUE)
cases <- read_json(file.path(arguments[1], "shift_cases.json"), simplifyVector = TRUE)

pooled <- function(d) {
  tight <- list(threshold = 1e-14, maxiter = 10000)
  fit <- rma(yi = d$y, sei = d$se, method = "REML", test = "adhoc", control = tight)
  ahead <- predict(fit)  # Student with k - 1 degrees of freedom, as the interval of the mean
  found <- list(value = as.numeric(fit$beta), se = fit$se, lower = fit$ci.lb, upper = fit$ci.ub,
                tau2 = fit$tau2, i2 = fit$I2 / 100, q = fit$QE, q_p = fit$QEp,
                default_lower = ahead$pi.lb, default_upper = ahead$pi.ub)
  if (fit$k > 2) {
    riley <- predict(fit, pi.type = "riley")  # k - 2 degrees of freedom
    found$riley_lower <- riley$pi.lb
    found$riley_upper <- riley$pi.ub
  }
  found
}

# Yang & Dalton 2012, by the definition.
categorical <- function(counts) {
  p <- counts[1, ] / sum(counts[1, ])
  q <- counts[2, ] / sum(counts[2, ])
  p <- p[-1]
  q <- q[-1]
  s <- (diag(p, length(p)) - p %o% p + diag(q, length(q)) - q %o% q) / 2
  sqrt(as.numeric(t(q - p) %*% solve(s) %*% (q - p)))
}

continuous <- function(m) (m[3] - m[1]) / sqrt((m[2]^2 + m[4]^2) / 2)

values <- list(
  sites = lapply(cases$sites, pooled),
  levels = lapply(cases$levels, categorical),
  moments = lapply(cases$moments, continuous),
  versions = list(R = as.character(getRversion()), metafor = as.character(packageVersion("metafor")))
)
write_json(values, arguments[2], digits = 15, auto_unbox = TRUE, pretty = TRUE)

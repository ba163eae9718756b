# Golden values of storm_clinic's metrics from R. Usage: Rscript metrics.R FOLDER_OF_CSVS OUT.json
suppressPackageStartupMessages({
  library(survival)
  library(riskRegression)
  library(pROC)
  library(jsonlite)
})
# riskRegression finds these by name inside its formulas.
prodlim_is_here <- requireNamespace("prodlim", quietly = TRUE)
stopifnot(prodlim_is_here)

response <- function(d) {
  if ("entry" %in% names(d)) Surv(d$entry, d$time, d$event) else Surv(d$time, d$event)
}

# risk is higher for worse, so the concordance is with -time: reverse = TRUE
concordances <- function(d) {
  y <- response(d)
  r <- d$risk
  one <- function(fit) list(value = unname(fit$concordance), se = sqrt(fit$var), count = unname(fit$count))
  strata_fit <- concordance(y ~ r + strata(d$fold), reverse = TRUE, keepstrata = FALSE)
  out <- list(
    harrell = one(concordance(y ~ r, reverse = TRUE)),
    weighted = one(concordance(y ~ r, reverse = TRUE, weights = d$weight)),
    up_to_tau = one(concordance(y ~ r, reverse = TRUE, ymax = d$tau[1])),
    within_folds = list(value = unname(strata_fit$concordance), se = sqrt(strata_fit$var)),
    clustered = one(concordance(y ~ r, reverse = TRUE, cluster = d$fold))
  )
  if (!("entry" %in% names(d)) && sum(d$event) > 1) {
    out$uno <- one(concordance(y ~ r, reverse = TRUE, timewt = "n/G2"))
    out$uno_up_to_tau <- one(concordance(y ~ r, reverse = TRUE, timewt = "n/G2", ymax = d$tau[1]))
  }
  out
}

curve <- function(fit) {
  s <- summary(fit, censored = TRUE)
  # At most 40 of the times, spread evenly, the last included.
  k <- unique(round(seq(1, length(s$time), length.out = 40)))
  list(
    time = s$time[k], n_risk = s$n.risk[k], n_event = s$n.event[k], n_censor = s$n.censor[k],
    survival = s$surv[k], se = s$std.err[k], lower = s$lower[k], upper = s$upper[k]
  )
}

quantiles <- function(fit) {
  q <- quantile(fit, c(0.25, 0.5, 0.75))
  list(quantile = unname(q$quantile), lower = unname(q$lower), upper = unname(q$upper))
}

curves <- function(d) {
  y <- response(d)
  loglog <- survfit(y ~ 1, conf.type = "log-log")
  out <- list(
    loglog = curve(loglog),
    log = curve(survfit(y ~ 1, conf.type = "log")),
    weighted = curve(survfit(y ~ 1, conf.type = "log-log", weights = d$weight, robust = FALSE)),
    quantiles = quantiles(loglog)
  )
  if (!("entry" %in% names(d))) {
    reverse <- survfit(Surv(d$time, d$event == 0) ~ 1, conf.type = "log-log")
    if (any(d$event == 0)) out$follow_up <- quantiles(reverse)
    at <- pmin(c(0.25, 0.5, 1) * d$horizon[1], max(d$time))
    s <- summary(survfit(y ~ d$group), times = at, extend = TRUE)
    out$at_risk <- list(time = at, n = t(matrix(s$n.risk, nrow = length(at))))
  }
  out
}

log_rank <- function(d) {
  if ("entry" %in% names(d)) {
    # The score test of the exact partial likelihood is the log-rank test.
    fit <- coxph(response(d) ~ factor(d$group), ties = "exact", iter.max = 0)
    return(list(chi2 = unname(fit$score)))
  }
  fit <- survdiff(response(d) ~ d$group)
  df <- sum(fit$exp > 0) - 1
  list(chi2 = fit$chisq, df = df, p = pchisq(fit$chisq, df, lower.tail = FALSE),
       observed = unname(fit$obs), expected = unname(fit$exp))
}

at_horizon <- function(d) {
  h <- d$horizon[1]
  s <- Score(list(model = d$probability), formula = Surv(time, event) ~ 1, data = d, times = h,
             metrics = c("auc", "brier"), summary = "ipa", null.model = TRUE, cens.model = "km",
             cens.method = "ipcw", se.fit = TRUE, conf.int = TRUE)
  brier <- as.data.frame(s$Brier$score)
  brier <- brier[brier$model == "model", ]
  auc <- as.data.frame(s$AUC$score)
  # pseudo() evaluates the call again elsewhere, so that the data must stand in it.
  km <- do.call(survfit, list(Surv(time, event) ~ 1, data = d, influence = TRUE))
  k <- findInterval(h, km$time)
  risk <- 1 - km$surv[k]
  expected <- mean(d$probability)
  influence <- -km$influence.surv[, k] / expected -
    risk / expected^2 * (d$probability - expected) / nrow(d)
  list(
    brier = brier$Brier, ipa = brier$IPA, auc = auc$AUC[auc$model == "model"],
    kaplan_meier = 1 - risk, o_e = risk / expected, o_e_se = sqrt(sum(influence^2)),
    pseudo = as.numeric(1 - pseudo(km, times = h, type = "survival"))
  )
}

smooth <- function(d, observed) {
  p <- d$probability
  fit <- loess(observed ~ p, span = 0.75, degree = 2, control = loess.control(surface = "direct"))
  grid <- sort(unique(c(quantile(p, seq(0, 1, 0.01)), seq(min(p), max(p), length.out = 101))))
  raw <- as.numeric(predict(fit, data.frame(p = grid)))
  fitted <- pmin(pmax(raw, 0), 1)
  distance <- abs(approx(grid, fitted, p)$y - p)
  list(at = grid[c(1, 20, 60, 100)], fitted = fitted[c(1, 20, 60, 100)], ici = mean(distance),
       e50 = unname(quantile(distance, 0.5)), e90 = unname(quantile(distance, 0.9)))
}

cox_slopes <- function(d) {
  one <- function(y, w = rep(1, nrow(d))) {
    fit <- coxph(y ~ d$risk, ties = "efron", weights = w, cluster = seq_len(nrow(d)),
                 control = coxph.control(eps = 1e-12, toler.chol = 1e-13, iter.max = 50))
    list(value = unname(coef(fit)), se = sqrt(fit$var[1, 1]))
  }
  h <- d$horizon[1]
  ended <- if ("entry" %in% names(d)) {
    keep <- d$entry < h
    d2 <- d[keep, ]
    fit <- coxph(Surv(entry, pmin(time, h), event * (time <= h)) ~ risk, data = d2,
                 control = coxph.control(eps = 1e-12, toler.chol = 1e-13))
    list(value = unname(coef(fit)))
  } else one(Surv(pmin(d$time, h), d$event * (d$time <= h)))
  list(all = one(response(d)), weighted = one(response(d), d$weight), ended = ended)
}

net_benefits <- function(d) {
  h <- d$horizon[1]
  cuts <- c(0.1, 0.3, 0.5)
  benefit <- function(above, cut) {
    share <- mean(above)
    if (share == 0) return(0)
    km <- survfit(Surv(d$time, d$event) ~ 1, subset = above)
    free <- summary(km, times = h, extend = TRUE)$surv
    share * (1 - free) - share * free * cut / (1 - cut)
  }
  list(threshold = cuts,
       model = sapply(cuts, function(cut) benefit(d$probability >= cut, cut)),
       all = sapply(cuts, function(cut) benefit(rep(TRUE, nrow(d)), cut)))
}

# Heteroscedasticity-consistent (HC0) standard error of one coefficient of a logistic regression.
sandwich_se <- function(fit, x, which) {
  p <- fitted(fit)
  bread <- solve(crossprod(x, x * p * (1 - p)))
  meat <- crossprod(x * (fit$y - p))
  sqrt((bread %*% meat %*% bread)[which, which])
}

# The event, whenever it came, as a class.
classes <- function(d) {
  a <- roc(d$event, d$probability, quiet = TRUE, direction = "<")
  b <- roc(d$event, -d$time, quiet = TRUE, direction = "<")
  logit <- qlogis(d$probability)
  tight <- glm.control(epsilon = 1e-14, maxit = 100)
  slope <- glm(event ~ logit, binomial, data = cbind(d, logit), control = tight)
  large <- glm(event ~ 1 + offset(logit), binomial, data = cbind(d, logit), control = tight)
  list(
    auroc = as.numeric(auc(a)), auroc_se = sqrt(var(a, method = "delong")),
    other = as.numeric(auc(b)), covariance = cov(a, b, method = "delong"),
    slope = unname(coef(slope)[2]), slope_se = sandwich_se(slope, cbind(1, logit), 2),
    intercept = unname(coef(large)), intercept_se = sandwich_se(large, matrix(1, nrow(d), 1), 1),
    brier = mean((d$probability - d$event)^2), smooth = smooth(d, d$event)
  )
}

one_case <- function(file) {
  d <- read.csv(file)
  out <- list(concordance = concordances(d), curves = curves(d), log_rank = log_rank(d))
  if (sum(d$event) > 1) out$cox_slope <- cox_slopes(d)
  if (!("entry" %in% names(d))) {
    out$horizon <- at_horizon(d)
    out$net_benefit <- net_benefits(d)
    if (sum(d$event) > 1) out$smooth <- smooth(d, out$horizon$pseudo)
    if (sum(d$event) > 1 && any(d$event == 0)) out$classes <- classes(d)
  }
  out
}

arguments <- commandArgs(trailingOnly = TRUE)
files <- sort(list.files(arguments[1], pattern = "[.]csv$", full.names = TRUE))
values <- lapply(files, one_case)
names(values) <- sub("[.]csv$", "", basename(files))
values$versions <- c(
  list(R = paste(R.version$major, R.version$minor, sep = ".")),
  sapply(c("survival", "riskRegression", "pROC"),
         function(package) as.character(packageVersion(package)), simplify = FALSE)
)
# One line a case.
as_line <- function(name) {
  paste0(toJSON(name, auto_unbox = TRUE), ": ",
         toJSON(values[[name]], auto_unbox = TRUE, digits = 15, na = "null"))
}
lines <- vapply(names(values), as_line, "")
writeLines(c("{", paste(lines, collapse = ",\n"), "}"), arguments[2])

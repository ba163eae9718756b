# Values, errors and paired gains from R's packages. Usage: Rscript accuracy.R FOLDER_OF_CSVS OUT.json
suppressPackageStartupMessages({
  library(survival)
  library(riskRegression)
  library(prodlim)
  library(pec)
  library(pROC)
  library(cmprsk)
  library(jsonlite)
})

competing <- function(d) "cause" %in% names(d)

# Values at the horizon, errors that know that G was estimated, and gains of the first prediction.
scores <- function(d) {
  h <- d$horizon[1]
  formula <- if (competing(d)) Hist(time, cause) ~ 1 else Surv(time, event) ~ 1
  s <- Score(list(model = d$probability, other = d$other), formula = formula, data = d, times = h,
             metrics = c("auc", "brier"), summary = "ipa", null.model = TRUE, cens.model = "km",
             cens.method = "ipcw", se.fit = TRUE, conf.int = TRUE, conservative = FALSE,
             contrasts = TRUE, cause = 1)
  one <- function(part, name) {
    t <- as.data.frame(part$score)
    t <- t[t$model == "model", ]
    c <- as.data.frame(part$contrasts)
    c <- c[c$model == "other" & c$reference == "model", ]
    list(value = t[[name]], se = t$se, gain = -c[[paste0("delta.", name)]], gain_se = c$se)
  }
  brier <- as.data.frame(s$Brier$score)
  list(auc = one(s$AUC, "AUC"), brier = one(s$Brier, "Brier"),
       brier_scaled = brier$IPA[brier$model == "model"])
}

# Gain in Harrell's C of two fitted models, their errors correlated.
gain_in_c <- function(d) {
  one <- coxph(Surv(time, event) ~ probability, data = d)
  other <- coxph(Surv(time, event) ~ other, data = d)
  stopifnot(coef(one) > 0, coef(other) > 0)
  both <- concordance(one, other)
  contrast <- c(1, -1)
  list(value = sum(contrast * coef(both)), se = sqrt(c(contrast %*% vcov(both) %*% contrast)))
}

# Gain in AUROC; the event, whenever it came, as a class.
gain_in_auroc <- function(d) {
  test <- roc.test(roc(d$event, d$probability, direction = "<", quiet = TRUE),
                   roc(d$event, d$other, direction = "<", quiet = TRUE), method = "delong")
  list(value = unname(test$estimate[1] - test$estimate[2]), lower = test$conf.int[1],
       upper = test$conf.int[2])
}

# The same weights as the Brier score's, made by another package.
log_score <- function(d) {
  h <- d$horizon[1]
  e <- d[order(d$time, if (competing(d)) d$cause == 0 else -d$event), ]  # as ipcw assumes
  e$any <- if (competing(d)) as.numeric(e$cause > 0) else e$event
  w <- pec::ipcw(Surv(time, any) ~ 1, data = e, method = "marginal", times = h,
                 subjectTimes = e$time, subjectTimesLag = 1)
  seen <- e$any == 1 & e$time <= h
  case <- seen & (if (competing(d)) e$cause == 1 else TRUE)
  weight <- ifelse(seen, 1 / w$IPCW.subjectTimes, ifelse(e$time > h, 1 / w$IPCW.times, 0))
  -sum(weight * ifelse(case, log(e$probability), log(1 - e$probability))) / nrow(e)
}

# riskRegression's Brier score at five times up to the horizon, under the trapezoid's rule.
integrated_brier <- function(d) {
  times <- d$horizon[1] * c(0.75, 0.8, 0.85, 0.92, 1)
  p <- outer(d$probability, times / d$horizon[1])
  value <- sapply(seq_along(times), function(k) {
    formula <- if (competing(d)) Hist(time, cause) ~ 1 else Surv(time, event) ~ 1
    s <- Score(list(model = p[, k]), formula = formula, data = d, times = times[k],
               metrics = "brier", null.model = FALSE, cens.model = "km", cens.method = "ipcw",
               se.fit = FALSE, cause = 1)
    s$Brier$score$Brier
  })
  sum(diff(times) * (head(value, -1) + tail(value, -1)) / 2) / (max(times) - min(times))
}

# Calibration in the large: by how much log(-log(1 - p)) must move so that the mean prediction is
# the Kaplan-Meier or Aalen-Johansen estimate; by its definition.
intercept <- function(d) {
  fit <- if (competing(d)) prodlim(Hist(time, cause) ~ 1, data = d) else
    prodlim(Hist(time, event) ~ 1, data = d)
  share <- if (competing(d)) predict(fit, times = d$horizon[1], cause = 1) else
    1 - predict(fit, times = d$horizon[1])
  excess <- function(shift) mean(1 - (1 - d$probability)^exp(shift)) - unlist(share)[1]
  uniroot(excess, c(-5, 5), tol = 1e-13)$root
}

# Observed over expected, its error from survfit's influences.
observed_expected <- function(d) {
  state <- factor(d$cause, 0:max(d$cause))
  fit <- do.call(survfit, list(Surv(time, state) ~ 1, data = data.frame(time = d$time, state),
                               influence = TRUE, id = seq_len(nrow(d))))
  k <- findInterval(d$horizon[1], fit$time)
  risk <- fit$pstate[k, 2]
  expected <- mean(d$probability)
  # Its first column is that of the start, time 0.
  own <- fit$influence.pstate[, k + 1, 2]
  stopifnot(abs(sum(own^2) - fit$std.err[k, 2]^2) < 1e-12)
  influence <- own / expected -
    risk / expected^2 * (d$probability - expected) / nrow(d)
  list(value = risk / expected, se = sqrt(sum(influence^2)))
}

# Wolbers' C with 1/G^2 by pec, and the Fine-Gray slope with the error of crr (which knows that G
# was estimated): both order ties in ways of their own, so only where there is none.
where_nothing_ties <- function(d) {
  if (anyDuplicated(d$time)) return(NULL)
  c <- pec::cindex(list(m = matrix(d$probability)), formula = Hist(time, cause) ~ 1, data = d,
                   eval.times = d$tau[1], pred.times = d$tau[1], cause = 1,
                   cens.model = "marginal")
  h <- d$horizon[1]
  lp <- matrix(log(-log(1 - d$probability)))
  fit <- crr(pmin(d$time, h), ifelse(d$time > h, 0, d$cause), lp, failcode = 1, gtol = 1e-10)
  list(wolbers = unname(unlist(c$AppCindex)), slope = unname(fit$coef),
       slope_se = sqrt(c(fit$var)))
}

one_case <- function(file) {
  d <- read.csv(file)
  out <- scores(d)
  out$log_score <- log_score(d)
  out$intercept <- intercept(d)
  out$integrated_brier <- integrated_brier(d)
  if (competing(d)) {
    out$o_e <- observed_expected(d)
    out$untied <- where_nothing_ties(d)
  } else {
    out$gain_in_c <- gain_in_c(d)
    out$gain_in_auroc <- gain_in_auroc(d)
  }
  out
}

arguments <- commandArgs(trailingOnly = TRUE)
files <- sort(list.files(arguments[1], pattern = "[.]csv$", full.names = TRUE))
values <- lapply(files, one_case)
names(values) <- sub("[.]csv$", "", basename(files))
packages <- c("survival", "riskRegression", "pec", "pROC", "cmprsk")
values$versions <- c(
  list(R = paste(R.version$major, R.version$minor, sep = ".")),
  sapply(packages, function(package) as.character(packageVersion(package)), simplify = FALSE)
)
# One line a case.
as_line <- function(name) {
  paste0(toJSON(name, auto_unbox = TRUE), ": ",
         toJSON(values[[name]], auto_unbox = TRUE, digits = 15, na = "null"))
}
lines <- vapply(names(values), as_line, "")
writeLines(c("{", paste(lines, collapse = ",\n"), "}"), arguments[2])
